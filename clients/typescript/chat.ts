// One chat over gRPC: npm start -- "What time is it in Rome?" http://127.0.0.1:50051
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { GenerationService, Role, ToolExecution } from "./gen/narthex/v1/generation_pb.js";

const [text = "Hello!", baseUrl = "http://127.0.0.1:50051"] = process.argv.slice(2);
const client = createClient(GenerationService, createGrpcTransport({ baseUrl }));
const events = client.chatStream({
  spec: {
    messages: [{ role: Role.USER, content: [{ part: { case: "text", value: text } }] }],
    toolExecution: ToolExecution.SERVER,
  },
});

for await (const { event } of events) {
  switch (event.case) {
    case "textDelta":
      process.stdout.write(event.value.text);
      break;
    case "toolCall":
      console.log(`\n${event.value.name} ${new TextDecoder().decode(event.value.arguments)}`);
      break;
    case "finished":
      console.log(`\n${event.value.usage?.completionTokens ?? 0} tokens`);
  }
}
