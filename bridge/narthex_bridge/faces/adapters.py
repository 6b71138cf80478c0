"""The adapters on top of the model."""

from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.body import Fields


def adapters(fields: Fields) -> list[wire.AdapterUse]:
    """`adapters`, names or objects with `name` and `scale`, or `adapter`, one name."""
    found = []
    if (name := fields.text("adapter")) is not None:
        found.append(wire.AdapterUse(name=name))
    for index, given in enumerate(fields.array("adapters")):
        if isinstance(given, str):
            found.append(wire.AdapterUse(name=given))
        elif isinstance(given, dict):
            use = Fields(given, f"adapters[{index}].")
            found.append(wire.AdapterUse(name=use.needed_text("name"), scale=use.number("scale")))
        else:
            raise fields.fault(f"adapters[{index}]", "must be a name, or an object with name and scale")
    return found
