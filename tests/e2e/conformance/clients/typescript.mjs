// A session by the official TypeScript client: node typescript.mjs http|sse URL → what happened, as JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";

const PATIENCE_MS = 5_000;
const report = {};

// Keeps what a step gives, or how it failed.
async function attempt(name, step) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error("too late")), PATIENCE_MS)));
  try {
    report[name] = await Promise.race([step(), late]);
  } catch (error) {
    report[name] = error.code === undefined ? { failed: String(error) } : { code: error.code, message: error.message };
  } finally {
    clearTimeout(timer);
  }
}

const [kind, address] = process.argv.slice(2);
const url = new URL(address);
const capabilities = { sampling: {}, elicitation: {}, roots: {} };
const client = new Client({ name: "narthex-test", version: "1" }, { capabilities });

client.setRequestHandler(CreateMessageRequestSchema, ({ params }) => ({
  role: "assistant",
  content: { type: "text", text: `sampled: ${params.messages[0].content.text}` },
  model: "none",
}));
client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
  const names = Object.keys(params.requestedSchema.properties);
  return { action: "accept", content: Object.fromEntries(names.map((name) => [name, name])) };
});
client.setRequestHandler(ListRootsRequestSchema, () => ({ roots: [{ uri: "file:///somewhere" }] }));

const heard = (schema) => new Promise((resolve) => client.setNotificationHandler(schema, resolve));
const logged = [];
client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => void logged.push(params.data));

async function called(name, args = {}) {
  const result = await client.callTool({ name, arguments: args });
  return { isError: result.isError ?? false, text: result.content[0].text };
}
const read = async (uri) => (await client.readResource({ uri })).contents[0].text;

const transport = kind === "sse" ? new SSEClientTransport(url) : new StreamableHTTPClientTransport(url);
await client.connect(transport);
report.version = transport.protocolVersion ?? transport._protocolVersion;
await attempt("tools", async () => (await client.listTools()).tools.map((tool) => tool.name));
await attempt("text", () => called("test_simple_text"));
await attempt("failing", () => called("test_error_handling"));
await attempt("progress", async () => {
  const told = [];
  const onprogress = ({ progress, total }) => told.push([progress, total]);
  await client.callTool({ name: "test_tool_with_progress", arguments: {} }, undefined, { onprogress });
  return told;
});
await attempt("logs", async () => {
  await client.setLoggingLevel("info");
  await called("test_tool_with_logging");
  return logged;
});
await attempt("resources", async () => (await client.listResources()).resources.map((resource) => resource.uri));
await attempt("read", () => read("test://static-text"));
await attempt("template", () => read("test://template/7/data"));
await attempt("missing", () => read("test://nowhere"));
await attempt("prompts", async () => (await client.listPrompts()).prompts.map((prompt) => prompt.name));
await attempt("prompt", async () => {
  const args = { arg1: "one", arg2: "two" };
  return (await client.getPrompt({ name: "test_prompt_with_arguments", arguments: args })).messages[0].content;
});
await attempt("completion", async () => {
  const ref = { type: "ref/prompt", name: "test_prompt_with_arguments" };
  return (await client.complete({ ref, argument: { name: "arg1", value: "par" } })).completion.values;
});
await attempt("sampling", () => called("test_sampling", { prompt: "Say it" }));
await attempt("elicitation", () => called("test_elicitation", { message: "Who?" }));
await attempt("roots", () => called("test_input_required_result_list_roots"));
await attempt("rounds", () => called("test_input_required_result_multi_round"));
await attempt("updated", async () => {
  const update = heard(ResourceUpdatedNotificationSchema);
  await client.subscribeResource({ uri: "test://watched-resource" });
  await called("test_touch_watched_resource");
  await update;
  return read("test://watched-resource");
});
await attempt("changed", async () => {
  const change = heard(ToolListChangedNotificationSchema);
  await called("test_trigger_tool_change");
  await change;
  return (await client.listTools()).tools.find((tool) => tool.name === "test_trigger_tool_change").description;
});
await attempt("cancelled", async () => {
  const before = Number(await read("test://cancelled-calls"));
  const stop = new AbortController();
  const call = { name: "test_wait", arguments: {} };
  const options = { signal: stop.signal, onprogress: () => stop.abort("no longer needed") };
  await client.callTool(call, undefined, options).catch(() => undefined);
  for (;;) {
    const after = Number(await read("test://cancelled-calls"));
    if (after > before) return after - before;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});
await client.close();
console.log(JSON.stringify(report));
process.exit(0);
