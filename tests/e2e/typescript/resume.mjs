// One tool call with the official client over a connection that is cut. Usage: node resume.mjs URL TOOL; prints JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [base, tool] = process.argv.slice(2);
const reconnectionOptions = {
  initialReconnectionDelay: 10,
  maxReconnectionDelay: 100,
  reconnectionDelayGrowFactor: 1,
  maxRetries: 10,
};
const client = new Client({ name: "narthex-test", version: "1.0.0" });
await client.connect(new StreamableHTTPClientTransport(new URL("/mcp", base), { reconnectionOptions }));
const told = [];
const onprogress = (progress) => told.push(progress.message);
const result = await client
  .callTool({ name: tool, arguments: {} }, undefined, { onprogress })
  .catch((error) => ({ content: [{ text: `error ${error.code}` }] }));
await client.close();
console.log(JSON.stringify({ told, text: result.content[0].text }));
