"""Templates made to hurt: each is refused within about a second, without memory for what it would make."""

import time
import tracemalloc

import pytest
from narthex_server.errors import InvalidModelFile, InvalidRequest
from narthex_server.text.messages import Message
from narthex_server.text.template import ChatTemplate

DOUBLE = (
    "{% set ns = namespace(x='0123456789abcdef') %}{% for i in range(60) %}{% set ns.x = GROWN %}{% endfor %}{{ ns.x }}"
)

TEMPLATES = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loop that calls itself": "{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "macro that calls itself": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "macros that call each other": (
        "{% macro a(n) %}{% if n %}{{ b(n - 1) }}{{ b(n - 1) }}{% endif %}{% endmacro %}"
        "{% macro b(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}"
    ),
    "much output": "{% set x = 'abcdefgh' * 100000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "text that doubles": DOUBLE.replace("GROWN", "ns.x + ns.x"),
    "text that is joined with itself": DOUBLE.replace("GROWN", "ns.x ~ ns.x"),
    "text that is formatted with itself": DOUBLE.replace("GROWN", "'%s%s' % (ns.x, ns.x)"),
    "text that formats itself": DOUBLE.replace("GROWN", "'{0}{0}'.format(ns.x)"),
    "text that replaces its letters": DOUBLE.replace("GROWN", "ns.x.replace('0', ns.x)"),
    "text that is filtered": DOUBLE.replace("GROWN", "ns.x | replace('0', ns.x)"),
    "text that joins its letters": DOUBLE.replace("GROWN", "ns.x.join(ns.x | list)"),
    "text that joins letters by filter": DOUBLE.replace("GROWN", "ns.x | list | join(ns.x)"),
    "list that doubles": DOUBLE.replace("GROWN", "(ns.x | list) + (ns.x | list)"),
    "lists in lists": DOUBLE.replace("GROWN", "[ns.x, ns.x]"),
    "mappings in mappings": DOUBLE.replace("GROWN", "{'a': ns.x, 'b': ns.x}") + "{{ ns.x | tojson }}",
    "mappings by name": DOUBLE.replace("GROWN", "dict(a=ns.x, b=ns.x)"),
    "block that doubles": (
        "{% set ns = namespace(x='0123456789abcdef') %}{% for i in range(60) %}"
        "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}"
    ),
    "repeated text": "{{ 'x' * 10000000000 }}",
    "repeated list": "{{ ([1] * 10000000000) | length }}",
    "repetitions the other way round": "{{ 10000000000 * 'x' }}",
    "repeated repetitions": "{{ ([['x' * 10000] * 10000] * 10000) | string | length }}",
    "power": "{{ 9 ** 999999999 }}",
    "products": "{% set ns = namespace(x=9) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "wide field": "{{ '%10000000000d' % 1 }}",
    "field of any width": "{{ '%*d' % (10000000000, 1) }}",
    "wide format": "{{ '{:10000000000}'.format(1) }}",
    "format of any width": "{{ '{:{}}'.format(1, 10000000000) }}",
    "wide format by filter": "{{ '%10000000000d' | format(1) }}",
    "padding": "{{ 'x'.rjust(10000000000) }}",
    "centring": "{{ 'x' | center(10000000000) }}",
    "indenting": "{{ 'x\ny' | indent(10000000000) }}",
    "indented JSON": "{{ messages | tojson(indent=1000000000) }}",
    "batches": "{{ [1] | batch(10000000000, 0) | list }}",
    "slices": "{{ [1] | slice(10000000000) | list }}",
    "range": "{{ range(10000000000) | list }}",
    "filler": "{{ lipsum(n=100000000) }}",
    "translated": "{{ ('a' * 100000).translate({97: 'b' * 100000}) }}",
    "bytes": "{{ 'a'.encode().ljust(10 ** 10) }}",
    "a number's bytes": "{{ (1).to_bytes(10 ** 10) }}",
    "many fields": "{{ ('%(a)s' * 200000) % {'a': 'x' * 200000} }}",
    "many wide fields": "{{ ('%(a)9999s' * 100000) % {'a': 1} }}",
    "many fields of a method": "{{ ('{0}' * 80000).format('x' * 200000) }}",
    "many fields of a filter": "{{ ('%s' * 100) | format(*(['x' * 200000] * 100)) }}",
    "hexadecimal": "{{ ('%(a)x' * 50000) % {'a': 2 ** 65000} }}",
    "indented lines": "{{ ('a\n' * 100000) | indent(100000) }}",
    "lines indented by a text": "{{ ('a\n' * 100000) | indent('x' * 200000) }}",
    "tabs": "{{ ('\t' * 200000).expandtabs(100000) }}",
    "summed lists": "{{ ([[1]] * 130000) | sum(start=[]) | length }}",
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_is_refused_soon_and_cheaply(name: str) -> None:
    template = ChatTemplate({"default": TEMPLATES[name]})
    tracemalloc.start(1)
    began = time.thread_time()
    try:
        with pytest.raises(InvalidRequest, match="chat template"):
            template.render([Message("user", "x")])
        assert time.thread_time() - began < 2
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages | attr('__class__') + 1 }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(1) }}{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{% set x = messages[0].update({'role': 1}) %}",
        "{% include 'other' %}",
        "{% import 'os' as os %}",
        "{{ ' work' }}{{ work.step() }}",
    ],
)
def test_it_stays_in_the_sandbox(source: str) -> None:
    template = ChatTemplate({"default": source})
    with pytest.raises(InvalidRequest, match="chat template"):
        template.render([Message("user", "x")])


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ " + "(" * 3000 + ")" * 3000 + " }}", "broken|does not compile"),
        ("{% for a in b %}" * 200 + "{% endfor %}" * 200, "broken|does not compile"),
        ("{{ " + "9" * 9999 + " }}", "does not compile"),
        ("x" * (1 << 21), "2097152 characters"),
        ("{{ x | nothing }}", "broken at line 1"),
        ("{{ x | wordwrap(1, wrapstring=x) }}", "No filter named 'wordwrap'"),
    ],
)
def test_what_does_not_compile_is_the_files_fault(source: str, complaint: str) -> None:
    with pytest.raises(InvalidModelFile, match=complaint):
        ChatTemplate({"default": source})


def test_loops_know_their_length_and_neighbours() -> None:
    source = (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{% if loop.last %}!{% endif %}"
        "{{ loop.nextitem.content if loop.nextitem }} {% endfor %}"
        "{% for k, v in {'a': 1}.items() %}{{ k ~ v ~ [k, v] }}{% else %}none{% endfor %}"
        "{% for x in (i for i) %}{% else %}none{% endfor %}".replace("(i for i)", "[]")
        + "{% for x in 'abc' | map('upper') %}{{ loop.length }}{{ x }}{% endfor %}"
    )
    rendered = ChatTemplate({"default": source}).render([Message("user", "p"), Message("user", "q")])
    assert rendered == "1/2q 2/2! a1['a', 1]none3A3B3C"


def test_long_conversations_are_rendered() -> None:
    template = ChatTemplate({"default": "{% for m in messages %}{{ m.role + ': ' + m.content | trim }}\n{% endfor %}"})
    text = "word " * 2000
    assert len(template.render([Message("user", text)] * 1000)) == 1000 * (len("user: ") + len(text))


def test_formats_indents_and_sums_of_usual_size_work() -> None:
    source = (
        "{{ '%s: %05.1f' % ('a', 2) }} {{ '{} {b}'.format(1, b='c') }} {{ '%s' | format('d') }} "
        "{{ 'e\nf' | indent(2) }} {{ 'g\nh' | indent('> ', first=true) }} {{ [1, 2] | sum }} "
        "{{ [{'n': 3}] | sum(attribute='n') }} {{ 'i j'.split() }} {{ 'k|l'.split('|') | last }} "
        "{{ 'm\tn'.expandtabs(2) }}"
    )
    rendered = ChatTemplate({"default": source}).render([Message("user", "x")])
    assert rendered == "a: 002.0 1 c d e\n  f > g\n> h 3 3 ['i', 'j'] l m n"
