"""Models that other servers run, spoken to as OpenAI's API has it."""
