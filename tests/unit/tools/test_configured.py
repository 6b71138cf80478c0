from narthex_server.tools.upstream.configured import Configured
from narthex_server.tools.upstream.source import Http, Process, ServerSource


def test_what_a_process_was_given_is_taken_out():
    process = Process("run", ("--token=tok-123456", "-v"), {"KEY": "key-123456", "DEBUG": "1"})
    text = Configured(ServerSource("one", process)).hide("run -v --token=tok-123456 failed 1 time: bad key-123456")
    assert text == "run -v *** failed 1 time: bad ***"


def test_a_token_is_taken_out_with_its_scheme_and_without():
    http = Http("https://example.com/mcp?key=abcdef", {"Authorization": "Bearer tok-123456"})
    configured = Configured(ServerSource("one", http))
    assert configured.hide("Bearer tok-123456 is bad") == "*** is bad"
    assert configured.hide("tok-123456 at https://example.com/mcp?key=abcdef") == "*** at ***"
