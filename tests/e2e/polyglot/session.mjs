// One MCP session by the official TypeScript client: node session.mjs http|sse URL → what happened, as JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [kind, url] = process.argv.slice(2);
const transport = kind === "sse" ? new SSEClientTransport(new URL(url)) : new StreamableHTTPClientTransport(new URL(url));
const client = new Client({ name: "narthex-test", version: "1" });
await client.connect(transport);
await client.ping();
const { tools } = await client.listTools();

const deltas = [];
const chat = await client.callTool(
  { name: "chat", arguments: { messages: [{ role: "user", content: "hello" }], max_tokens: 24 } },
  undefined,
  { onprogress: (progress) => deltas.push(progress.message ?? "") },
);
const echo = await client.callTool({ name: "everything__echo", arguments: { message: "through the bridge" } });
const steps = [];
const long = await client.callTool(
  { name: "everything__trigger-long-running-operation", arguments: { duration: 1, steps: 4 } },
  undefined,
  { onprogress: (progress) => steps.push(progress.progress) },
);
const wrong = await client.callTool({ name: "everything__get-sum", arguments: { a: "x" } }).catch((error) => ({
  isError: true,
  content: [{ type: "text", text: error.message }],
}));
await client.close();
console.log(JSON.stringify({ tools: tools.map((tool) => tool.name), chat, deltas, echo, long, steps, wrong }));
process.exit(0);
