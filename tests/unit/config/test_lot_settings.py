import pytest
from narthex.settings import NamedText, SettingsError
from narthex_server.config.lot import LotSettings
from narthex_server.lot.limits import Limits
from narthex_server.waiting import limits


def test_weights_are_numbers_by_tenant():
    settings = LotSettings(weight=(NamedText("gold", "2.5"),), tenant_waiting=3)
    assert limits(settings, 7) == Limits(7, 3, settings.ageing, settings.patience, {"gold": 2.5})


@pytest.mark.parametrize("text", ["much", "0", "-1", "inf", "nan", "1e9"])
def test_what_is_no_weight_is_refused(text):
    with pytest.raises(SettingsError, match="--lot-weight gold="):
        LotSettings(weight=(NamedText("gold", text),))
