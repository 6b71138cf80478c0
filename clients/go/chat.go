// One chat over gRPC: chat "What time is it in Rome?" 127.0.0.1:50051
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"google.golang.org/grpc"

	narthex "narthex.example/gen/narthex/v1"
)

func argument(index int, fallback string) string {
	if len(os.Args) > index {
		return os.Args[index]
	}
	return fallback
}

func main() {
	connection, err := grpc.Dial(argument(2, "127.0.0.1:50051"), grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	text := &narthex.ContentPart{Part: &narthex.ContentPart_Text{Text: argument(1, "Hello!")}}
	stream, err := narthex.NewGenerationServiceClient(connection).ChatStream(context.Background(), &narthex.ChatStreamRequest{
		Spec: &narthex.ChatSpec{
			Messages:      []*narthex.ChatMessage{{Role: narthex.Role_ROLE_USER, Content: []*narthex.ContentPart{text}}},
			ToolExecution: narthex.ToolExecution_TOOL_EXECUTION_SERVER,
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		switch event := response.Event.(type) {
		case *narthex.ChatStreamResponse_TextDelta:
			fmt.Print(event.TextDelta.Text)
		case *narthex.ChatStreamResponse_ToolCall:
			fmt.Printf("\n%s %s\n", event.ToolCall.Name, event.ToolCall.Arguments)
		case *narthex.ChatStreamResponse_Finished:
			fmt.Printf("\n%d tokens\n", event.Finished.GetUsage().GetCompletionTokens())
		}
	}
}
