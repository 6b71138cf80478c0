// Lists and calls tools with the official client. Usage: node client.mjs http|sse URL; prints one JSON line.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [kind, base] = process.argv.slice(2);
const transport =
  kind === "sse"
    ? new SSEClientTransport(new URL("/sse", base))
    : new StreamableHTTPClientTransport(new URL("/mcp", base));
const client = new Client({ name: "narthex-test", version: "1.0.0" });
await client.connect(transport);
await client.ping();
const { tools } = await client.listTools();
const told = [];
const asked = { name: "deltas", arguments: {} };
const result = await client.callTool(asked, undefined, { onprogress: (progress) => told.push(progress.message) });
const echoed = await client.callTool({ name: "echo", arguments: { text: "héllo" } });
let failure = null;
await client.callTool({ name: "nothing", arguments: {} }).catch((error) => (failure = error.code));
await client.close();
console.log(
  JSON.stringify({
    tools: tools.map((tool) => tool.name),
    told,
    text: result.content[0].text,
    echoed: echoed.content[0].text,
    failure,
  }),
);
