// Server-sent events of a fetch: unlike EventSource it can send a key.

/** The data of each event of an answer; `alive` is called whenever anything comes, comments included. */
export async function* events(response, alive = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data:"));
        if (data.length) yield data.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What a refusal says, for people. */
export async function refusal(response) {
  try {
    const told = await response.json();
    return told.error.message;
  } catch {
    return `The bridge answered with status ${response.status}.`;
  }
}
