import pytest
from narthex.cli.serve import Callers
from narthex.settings import load


@pytest.mark.parametrize(
    "flags, environ, text, are_one",
    [
        ({}, {}, "", True),
        ({"oauth_issuers": ["https://issuer.example"]}, {}, "", False),
        ({"api_key_file": "keys.toml"}, {}, "", False),
        ({}, {"NARTHEX_OAUTH_ISSUERS": "https://issuer.example"}, "", False),
        ({}, {}, '[bridge]\noauth.issuers = ["https://issuer.example"]\nhttp = "127.0.0.1:0"', False),
        ({}, {}, '[bridge]\noauth.tenant_claim = "org"', True),
    ],
)
def test_the_server_learns_whether_the_bridge_can_tell_its_callers_apart(tmp_path, flags, environ, text, are_one):
    file = tmp_path / "narthex.toml"
    file.write_text(text)
    assert load(Callers, "bridge", flags, environ=environ, file=file, partial=True).are_one is are_one
