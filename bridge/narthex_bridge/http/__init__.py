"""HTTP requests, answers, refusals and routes as everything else sees them, free of any framework."""
