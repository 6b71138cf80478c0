"""What every HTTP request passes first: where it comes from, who sends it, how often."""

from narthex_bridge.gate.gate import Admitted, Arrival, Gate, request_id
from narthex_bridge.http.refusal import Refused

__all__ = ["Admitted", "Arrival", "Gate", "Refused", "request_id"]
