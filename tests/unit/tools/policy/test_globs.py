import pytest
from narthex_server.tools.policy.globs import names


@pytest.mark.parametrize(
    ("patterns", "fits", "others"),
    [
        ([], "", "a * ?"),
        (["a", "a"], "a", "b aa A"),
        (["a*", "b"], "a ab b", "ba B"),
        (["*"], "a -", ""),
        (["[ab]?"], "ax b?", "a cx axx"),
        (["a", "a", "b?"], "a bb", "b c"),
    ],
)
def test_names(patterns, fits, others):
    test = names(patterns)
    assert all(map(test, fits.split())) and not any(map(test, others.split()))
