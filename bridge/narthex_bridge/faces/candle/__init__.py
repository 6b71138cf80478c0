"""What a fork of candle-vllm adds to OpenAI's endpoints: its mailbox and its queues."""
