"""Synthetic training text for the demo model: chat, tool use in ChatML and small text skills. Nothing is copied from anywhere.

qa.txt holds the questions and answers, words.txt the word lists, tools.jsonl the familiar tools, phrases.json other wording (its
first intro is that of the chat template; the others prepare the model for servers with their own). Every word list is split in
two: R(seed, held=True) draws only words that training never uses in names and values, so an evaluation with it is a fair test.
"""
import json
import pathlib
import random
import re
from collections import namedtuple
from string import Template

HERE = pathlib.Path(__file__).parent
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
CALL = '<tool_call>\n{"name": %s, "arguments": %s}\n</tool_call>'
PHRASES = json.loads((HERE / "phrases.json").read_text())
WORDS = {k: v.split() for k, v in (line.split(": ") for line in (HERE / "words.txt").read_text().splitlines())}
ZONES = {z.split("/")[1].replace("_", " "): z for z in WORDS["zones"]}
WORDS["cities"] += [city for city in ZONES if " " not in city]
LINES = (HERE / "qa.txt").read_text().splitlines()
QA = [(line.split(" => ")[0].split("|"), line.split(" => ")[1]) for line in LINES if " => " in line]
TERMS = [line.split(" ~ ") for line in LINES if " ~ " in line]
FAMILIAR = [json.loads(line) for line in (HERE / "tools.jsonl").read_text().splitlines()]
SERVERS = {t["server"] for t in FAMILIAR}
DAYS, MONTHS = PHRASES["days"], PHRASES["months"]
Tool = namedtuple("Tool", "server name about args asks result answer must")

class R(random.Random):
    """A seeded source of random words and values."""
    def __init__(self, seed, held=False):
        super().__init__(f"{seed}{held}")
        self.held = held
    def p(self, chance):
        return self.random() < chance
    def pick(self, kind):
        """A word of this side of the split: every sixth word of each list is held out."""
        return self.choice([w for i, w in enumerate(WORDS[kind]) if (i % 6 == 3) == self.held])
    def pseudo(self, n=None):
        return "".join(self.choice(WORDS["onsets"]) + self.choice(WORDS["rimes"]) for _ in range(n or self.choice((2, 2, 3)))) + (self.choice("nrstlmkx") if self.p(.4) else "")
    def word(self):
        return self.pick(self.choice(("nouns", "nouns", "adjs"))) if self.p(.7) else self.pseudo()
    def phrase(self, lo=1, hi=4):
        return " ".join(self.word() for _ in range(self.randint(lo, hi)))
    def num(self):
        return self.choice((self.randint(0, 20), self.randint(0, 99), self.randint(100, 999), self.randint(1000, 9999)))
    def code(self):
        digits, a, b = self.num() + 10, self.choice("ABCDEFGHKLMNPRSTVWXZ"), self.choice("ABCDEFGHKLMNPRSTVWXZ")
        return self.choice((f"{a}{digits}", f"{self.pseudo(1)}-{digits}", f"{a}{b}-{digits}", f"{self.word()}_{digits}"))
    def file(self):
        return f"{self.word()}.{self.choice(WORDS['extensions'])}"
    def dir(self):
        return "/" + "/".join(([self.choice(WORDS["roots"])] if self.p(.5) else []) + [self.word() for _ in range(self.randint(1, 2))])
    def path(self):
        return (self.dir() if self.p(.8) else "") + "/" + self.file()
    def url(self):
        host = self.choice(("", "www.", "api.", "docs.")) + self.word() + self.choice((".com", ".org", ".net", ".io", ".example", ".dev"))
        return self.choice(("https://", "https://", "http://")) + host + "".join(f"/{self.word()}" for _ in range(self.choice((0, 0, 1, 1, 2))))
    def clock(self):
        return f"{self.randint(0, 23):02d}:{self.randint(0, 59):02d}"
    def date(self):
        return f"{self.randint(2019, 2031)}-{self.randint(1, 12):02d}-{self.randint(1, 28):02d}"
    def email(self):
        return f"{self.pick('names').lower()}@{self.word()}.com"
    def value(self):
        return self.choice((self.num, self.num, self.code, self.word, lambda: self.choice(WORDS["states"]), lambda: self.pick("names"), lambda: f"{self.num()}.{self.randint(1, 9)}"))()

class Values(dict):
    """Fills $placeholders; each kind is drawn once, when it is first used."""
    def __init__(self, r):
        super().__init__()
        city, city2 = r.sample(list(ZONES), 2)
        self.r, x, y = r, r.num(), r.num()
        self.update(place=city, zone=ZONES[city], place2=city2, zone2=ZONES[city2], x=x, y=y, sum=x + y, difference=x - y, product=x * y)
    def __missing__(self, key):
        r, (kind, _, form) = self.r, key.partition("_")
        if form:
            self[kind]
            items = self[kind + "_list"]
            return json.dumps(items) if form == "json" else "\n".join(("[FILE] " if "." in i else "[DIR] ") + i for i in items)
        makers = {"text": lambda: r.phrase(2, 6), "query": r.phrase, "name": lambda: r.pick("names"), "kind": lambda: r.choice(WORDS["kinds"]), "clock2": r.clock, "digit": lambda: r.randint(0, 9),
                  "table": lambda: r.pick("nouns") + "s", "column": lambda: r.choice(WORDS["columns"]), "city": lambda: r.pick("cities"), "weather": lambda: r.choice(WORDS["weather"]), "degrees": lambda: r.randint(1, 39)}
        lists = {"entries": lambda: r.file() if r.p(.7) else r.word(), "names": lambda: r.pick("names"), "tables": lambda: r.pick("nouns") + "s", "columns": lambda: r.choice(WORDS["columns"])}
        if kind in lists:
            self[kind + "_list"] = list(dict.fromkeys(lists[kind]() for _ in range(r.randint(1, 4))))
            self[kind] = listing(self[kind + "_list"])
        else:
            self[kind] = makers[kind]() if kind in makers else getattr(r, kind)()
        return self[kind]
    def fill(self, x):
        if isinstance(x, list):
            return [self.fill(i) for i in x]
        if isinstance(x, dict):
            return {k: self.fill(v) for k, v in x.items()}
        return self[x[1:]] if x[:1] == "$" and x[1:].isalnum() else Template(x).substitute(self)

def listing(xs):
    return xs[0] if len(xs) == 1 else ", ".join(xs[:-1]) + " and " + xs[-1]

def familiar(r, servers=SERVERS):
    t, v = r.choice([t for t in FAMILIAR if t["server"] in servers]), Values(r)
    return Tool(t["server"], r.choice(t["names"]), r.choice(t["about"]), v.fill(t["params"]), v.fill(t["asks"]), str(v.fill(r.choice(t["results"]))), v.fill(t["answer"]), [str(m) for m in v.fill(t["must"])])

def invented(r):
    """A tool nobody has seen: the model must match words, then copy the name, the parameter names and the values."""
    kinds = {k: getattr(r, k) for k in ("code", "path", "url", "date", "email")} | {"time": r.clock, "file": r.path}
    kinds |= {k: r.code for k in ("id", "key")} | {k: r.word for k in ("label", "mode", "target", "source", "topic", "color")} | {k: r.phrase for k in ("query", "title", "text", "message")}
    kinds |= {k: lambda: r.pick("names") for k in ("name", "user", "owner")} | {k: lambda: r.pick("cities") for k in ("city", "location")} | {k: r.num for k in ("count", "limit", "amount", "level", "size", "port", "speed", "number")}
    verb, noun = r.pick("verbs") if r.p(.8) else r.pseudo(), r.pick("nouns") if r.p(.6) else r.pseudo()
    params = r.sample(list(kinds), r.choice((0, 1, 1, 1, 1, 2, 2, 3)))
    args = {(r.choice((f"{noun}_{p}", r.pseudo(), f"{p}_{r.word()}")) if r.p(.2) else p): kinds[p]() for p in params}
    name = r.choice((f"{verb}_{noun}", f"{verb}_{noun}", f"{verb}_{noun}", f"{verb}-{noun}", f"{verb}{noun.title()}", f"{noun}_{verb}"))
    pairs = [f"{p.replace('_', ' ')} {a}" for p, a in args.items()]
    asks = [f"{verb} the {noun}", f"{verb} the {noun} now", f"use {name}", f"{verb} my {noun}"]
    if pairs:
        asks = [f"{verb} the {noun} with {listing(pairs)}", f"{verb} a {noun} with {listing(pairs)}", f"use {name} with {listing(pairs)}", f"call {name} with " + ", ".join(f"{p}={a}" for p, a in args.items())]
    if len(pairs) == 1:
        asks += [f"{verb} {x} {a}" for a in args.values() for x in (f"the {noun}", noun, f"my {noun}")]
    (f, g), (x, y) = r.sample(WORDS["fields"] + [r.pseudo()], 2), (r.value(), r.value())
    result, answer, must = r.choice((
        (json.dumps({f: x}), f"The {f} is {x}.", [x]), (json.dumps({f: x}), f"The {f} is {x}.", [x]), (json.dumps({f: x, g: y}), f"The {f} is {x} and the {g} is {y}.", [x, y]),
        *((t, f"Result: {t}", [x]) for t in (f"{noun} {f}: {x}", f"{f} {x}", f"{r.phrase()} {x}")), (r.choice(("ok", "done", "success", "true")), f"Done. The tool {name} finished.", [name])))
    about = r.choice((f"{verb} a {noun}", f"{verb} the {noun}", f"{verb} one {noun}", f"{verb} a {noun} in the system")).capitalize()
    return Tool(r.choice((r.pick("nouns"), r.pick("names").lower(), r.pseudo(), noun + "s", "")), name, about, args, asks, result, answer, [str(m) for m in must])

def definition(r, t, sep):
    """A tool's full name and JSON definition, with some variety in the name, the description and the schema."""
    server, about, described = t.server, t.about, r.p(.2)
    if server in SERVERS and r.p(.25):
        server = r.choice((r.pick("nouns"), f"mcp-{server}", f"{server}-server", f"my_{server}", f"{server}1"))
    full = t.name if not server or r.p(.12) else server + sep + t.name
    schema = {}
    for p, a in t.args.items():
        schema[p] = {"type": "string"} if isinstance(a, str) else {"type": r.choice(("integer", "number"))} if isinstance(a, int) else {"type": "array", "items": {"type": "object"}}
        schema[p] |= {"description": f"The {p.replace('_', ' ')}"} if described else {}
    if r.p(.08):
        schema[r.choice(WORDS["options"])] = {"type": r.choice(("string", "boolean", "integer"))}
    params = {"type": "object", "properties": schema} | ({"required": list(t.args)} if t.args and r.p(.85) else {})
    if r.p(.06):
        params |= {"additionalProperties": False, "$schema": "http://json-schema.org/draft-07/schema#"}
    for _ in range(r.choice((0, 0, 0, 0, 0, 1, 2))):
        about = about.rstrip(".") + ". " + r.choice(PHRASES["extras"])
    return full, {"type": "function", "function": {"name": full, "description": about, "parameters": params}}

def request(r, t):
    """The user's words for one call, perhaps wrapped in a polite form."""
    s = r.choice(t.asks)
    if r.p(.4) and not s.endswith("?"):
        s = r.choice(PHRASES["wrappers"]).format(s)
    s = s[0].upper() + s[1:] if r.p(.6) else s
    return s if s.endswith("?") or r.p(.6) else s + "."

def tool_doc(r, kind=None, max_tools=6, source=None):
    """A conversation with tools. doc['targets'] lists the expected calls as (full name, Tool)."""
    kind = kind or r.choices(("single", "multi", "chain", "parallel", "none", "missing", "list", "error"), (48, 24, 4, 4, 7, 5, 4, 4))[0]
    turns = {"multi": r.choice((2, 2, 3)), "chain": 2, "parallel": 2}.get(kind, 1)
    n = max(turns, min(max_tools, r.choices((1, 2, 3, 4, 5, 6), (18, 24, 22, 18, 10, 8))[0]))
    source = source or (familiar if r.p(.5) else invented)
    picked = [source(r)]
    while len(picked) < n:
        t = r.choice((source, familiar, invented))(r) if source is invented or r.p(.5) else familiar(r, {picked[0].server})
        if t.name not in {x.name for x in picked}:
            picked.append(t)
        elif r.p(.1):
            picked.append(invented(r))
    sep, docs, messages = r.choice(("__", "__", "__", "__", "__", "_", ".", "-", "/")), [], []
    for t in picked:
        full, tool = definition(r, t, sep)
        docs.append((full, t, tool))
    targets = docs[:turns]
    tools = r.sample([d[2] for d in docs], n)
    names = [t["function"]["name"] for t in tools]
    say = lambda role, content, **more: messages.append({"role": role, "content": content, **more})
    call = lambda *ts: say("assistant", "", tool_calls=[{"name": full, "arguments": t.args} for full, t, _ in ts])
    if kind in ("single", "multi", "error"):
        for d in targets:
            say("user", request(r, d[1])), call(d)
            problem = r.choice(("not found", "permission denied", "timeout", "invalid argument", "connection refused", f"no {r.word()} found", f"unknown {r.word()}"))
            say("tool", r.choice(("Error: ", "error: ")) + problem if kind == "error" else d[1].result)
            say("assistant", f"The tool reported an error: {problem}." if kind == "error" else d[1].answer)
    elif kind in ("chain", "parallel"):
        a, b = (r.choice(d[1].asks).rstrip("?") for d in targets)
        text = r.choice(("{}, then {}", "first {}, then {}") if kind == "chain" else ("{} and also {}", "{} and {}", "{}, and also {}")).format(a, b)
        say("user", text.capitalize() if r.p(.3) and text == text.lower() else text)
        if kind == "chain":
            call(targets[0]), say("tool", targets[0][1].result), call(targets[1])
        else:
            call(*targets), say("tool", targets[0][1].result)
        say("tool", targets[1][1].result), say("assistant", " ".join(d[1].answer for d in targets))
    elif kind == "list":
        say("user", r.choice(("What tools do you have?", "which tools can you use?", "list your tools", "show me your tools", "Which tools are available?")))
        say("assistant", f"I can use {listing(names)}.")
    elif kind == "missing":
        t = invented(r) if r.p(.6) else familiar(r, SERVERS - {x.server for x in picked} or {"git"})
        say("user", request(r, t)), say("assistant", "I do not have a tool for that.")
    else:
        q, a = chat_pair(r) if r.p(.6) else skill(r)
        say("user", q), say("assistant", a)
    return {"tools": tools, "messages": messages, "targets": [(full, t) for full, t, _ in targets]}

def chat_pair(r):
    k = r.random()
    if k < .45:
        qs, a = r.choice(QA)
        q = r.choice(qs)
    elif k < .8:
        term, a = r.choice(TERMS)
        bare = term.removeprefix("a ").removeprefix("an ").removeprefix("the ")
        q = r.choice(("what is {0}", "what is {0}", "explain {0}", "tell me about {0}", "what does {1} mean", "define {1}", "can you explain {0}", "what's {0}", "{1}", "please explain what {0} is")).format(term, bare)
    elif k < .9:
        q = r.choice((f"who won the {r.word()} cup in {r.randint(1950, 2025)}", f"how do i repair a {r.word()}", f"write a program for a {r.word()}", f"who is {r.pick('names')} {r.pseudo().title()}", f"translate {r.phrase()}", f"what is a {r.pseudo()}",
                      f"what is the price of a {r.word()}", f"why is the {r.word()} {r.pick('adjs')}", f"how far is {r.pick('cities')} from {r.pick('cities')}", f"give me a recipe for {r.word()}", f"what is the capital of {r.pick('cities')}", f"what is the meaning of {r.word()}"))
        a = "I am only a tiny demo model and I do not know that. Try a larger model or connect a tool."
    else:
        n, m, who = r.pick("nouns"), r.pick("nouns"), r.pick("names")
        q = r.choice(("tell me a story about {} and a {}", "write a short story about {} and a {}", "tell a story about {} and the {}")).format(who, n)
        a = " ".join((f"Once upon a time {who} found a {r.pick('adjs')} {n} near {r.pick('cities')}.", r.choice((f"Nobody knew who had left the {n} there.", f"The {n} was hidden under a {m}.")), r.choice((f"{who} took the {n} home and showed it to a friend.", f"{who} asked every neighbor about the {n}.")),
                      r.choice((f"The friend smiled and gave {who} a {m} in return.", "At last an old sailor came and told them its secret.")), f"From that day on, {who} never lost the {n} again."))
    q += r.choice(("", ".")) if q.startswith(("tell", "write", "explain")) else r.choice(("", "?", "?"))
    return (q[0].upper() + q[1:] if r.p(.5) else q), a

def skill(r):
    kind = r.choices(("count", "spell", "repeat", "lists", "reverse", "sum", "next", "pick"), (14, 16, 28, 10, 12, 14, 6, 4))[0]
    if kind == "count":
        a = r.choice((0, 1, 1, 1, r.randint(0, 40)))
        numbers = [str(x) for x in range(a, a + r.randint(3, 15))]
        numbers = numbers[::-1] if r.p(.2) else numbers
        q, a = r.choice(("count from {} to {}", "please count from {} to {}", "count {} to {}", "list the numbers from {} to {}")).format(numbers[0], numbers[-1]), ", ".join(numbers)
    elif kind == "spell":
        w = r.word()
        q, a = r.choice(("spell {}", "spell the word {}", "how do you spell {}?", "please spell {}")).format(w), "-".join(w)
    elif kind == "repeat":
        a = r.phrase(2, 9) if r.p(.7) else r.choice((r.code, r.path, r.url, r.date))()
        q = r.choice(("repeat {}", "repeat after me: {}", "say {}", "say exactly: {}", "repeat this: {}", "please repeat: {}")).format(a)
    elif kind == "lists":
        what, a = r.choice((("days of the week", ", ".join(DAYS)), ("months of the year", ", ".join(MONTHS))))
        q = r.choice(("list the {}", "what are the {}?", "name the {}", "say the {}")).format(what.split(" ")[0] if r.p(.2) else what)
    elif kind == "reverse":
        xs = [r.word() if r.p(.7) else str(r.randint(0, 30)) for _ in range(r.randint(2, 5))]
        q, a = r.choice(("reverse the list {}", "reverse {}", "reverse this list: {}", "write {} in reverse order")).format(", ".join(xs)), ", ".join(xs[::-1])
    elif kind == "sum":
        x, y = r.randint(0, 10), r.randint(0, 10)
        q, a = r.choice(("what is {} plus {}?", "what is {} + {}?", "add {} and {}", "{} + {}", "how much is {} plus {}?")).format(x, y), f"{x} plus {y} is {x + y}."
        if r.p(.25) and x >= y:
            q, a = r.choice(("what is {} minus {}?", "what is {} - {}?", "{} - {}")).format(x, y), f"{x} minus {y} is {x - y}."
    elif kind == "next":
        names, i = r.choice((("day", DAYS), ("month", MONTHS))), r.randrange(12)
        step, names, what = r.choice((1, -1)), names[1], names[0]
        q, a = f"what {what} comes {'after' if step > 0 else 'before'} {names[i % len(names)]}?", names[(i + step) % len(names)]
    else:
        xs, which = [r.word() for _ in range(r.randint(2, 5))], r.choice(("first", "last"))
        q, a = f"what is the {which} word in: {' '.join(xs)}?", xs[0 if which == "first" else -1]
    return (q[0].upper() + q[1:] if r.p(.5) else q), a

DEMO = json.loads((HERE / "demo_tools.json").read_text())

def demo_doc(r):
    """A conversation with exactly the tools that the demo server offers, or with some of them."""
    v = Values(r)
    tools = {t["function"]["name"]: t for t in DEMO}
    if r.p(.3):
        keep = r.sample(list(tools), r.randint(1, 4))
        tools = {n: t for n, t in tools.items() if n in keep}
    stamp = lambda zone, clock: {"timezone": zone, "datetime": f"{r.date()}T{clock}:{r.randint(0, 59):02d}{r.choice('+-')}{r.randint(0, 11):02d}:{r.choice(('00', '00', '00', '30'))}", "day_of_week": r.choice(DAYS), "is_dst": r.p(.3)}
    folder, path = (r.choice(("docs", "notes", "src", ".")) if r.p(.4) else r.dir().lstrip("/")), (r.path().lstrip("/") if r.p(.6) else r.file())
    uses = {
        "time__get_current_time": lambda: ({"timezone": v["zone"]}, ("what time is it in $place?", "what is the time in $place?", "tell me the current time in $place", "what time is it now in $place?", "current time in $place?", "what time is it in $zone?", "do you know the time in $place?"),
            json.dumps(stamp(v["zone"], v["clock"]), indent=2), "It is $clock in $place."),
        "time__convert_time": lambda: ({"source_timezone": v["zone"], "time": v["clock"], "target_timezone": v["zone2"]}, ("convert $clock from $place to $place2", "when it is $clock in $place, what time is it in $place2?", "what is $clock $place time in $place2?"),
            json.dumps({"source": stamp(v["zone"], v["clock"]), "target": stamp(v["zone2"], v["clock2"]), "time_difference": f"{r.choice('+-')}{r.randint(0, 12)}.{r.choice('05')}h"}, indent=2), "$clock in $place is $clock2 in $place2."),
        "workspace__list_directory": lambda: ({"path": folder}, (f"list {folder}", f"list the files in {folder}", f"what files are in {folder}?", f"show me the files in {folder}", "what files are there?" if folder == "." else f"what is in the folder {folder}?"),
            v["entries_lines"], "There is $entries." if len(v["entries_list"]) == 1 else "There are $entries."),
        "workspace__read_file": lambda: ({"path": path}, (f"read {path}", f"read the file {path}", f"what is in the file {path}?", f"show me {path}", f"what does {path} say?", f"open {path}"),
            v["text"] if r.p(.7) else f"{r.phrase()}: {r.value()}", None),
        "workspace__search_files": lambda: ({"pattern": v["word"]}, ("find files named $word", "search for $word", "look for files named $word", "which files are named $word?"), path, f"I found {path}."),
    }
    name = r.choice(list(tools))
    messages = []
    for _ in range(r.choice((1, 1, 1, 1, 1, 2))):
        name = r.choice(list(tools))
        args, asks, result, answer = uses[name]()
        ask = v.fill(r.choice(asks))
        if r.p(.3) and not ask.endswith("?"):
            ask = r.choice(PHRASES["wrappers"]).format(ask)
        ask = ask[0].upper() + ask[1:] if r.p(.6) else ask
        messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": "", "tool_calls": [{"name": name, "arguments": args}]},
                     {"role": "tool", "content": result}, {"role": "assistant", "content": v.fill(answer) if answer else f"The file says: {result}"}]
        v = Values(r)
    return {"tools": list(tools.values()), "messages": messages, "targets": []}

def make_doc(r, easy=False):
    """One training document. Easy ones are short and come first, so that copying emerges early."""
    k = r.random()
    if not easy and k > .94:
        return demo_doc(r) | {"system": None if r.p(.7) else r.choice(PHRASES["systems"]), "intro": 0, "style": "spaced"}
    if k < (.4 if easy else .2):
        make, pairs = skill if k < (.3 if easy else .08) else chat_pair, []
        for _ in range(r.choice((1, 1, 2, 3))):
            q, a = make(r)
            pairs += [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        doc = {"messages": pairs}
    else:
        doc = tool_doc(r, "single", 2) if easy else tool_doc(r)
    style = r.choices(("spaced", "compact", "sorted"), (55, 30, 15))[0]
    return doc | {"system": None if r.p(.5) else r.choice(PHRASES["systems"]), "intro": r.choices((0, 1, 2), (75, 15, 10))[0], "style": style}

def segments(doc):
    """The ChatML text as (text, is_assistant) pieces. Intro 0 with style 'spaced' equals the output of the chat template."""
    options = {"compact": {"separators": (",", ":")}, "sorted": {"sort_keys": True, "separators": (",", ":")}}.get(doc.get("style"), {})
    out, messages, system = [], doc["messages"], doc.get("system") or ""
    if doc.get("tools"):
        head, tail = PHRASES["intros"][doc.get("intro", 0)]
        system += ("\n\n" if system else "") + head + "\n".join(json.dumps(t, **options) for t in doc["tools"]) + tail
    if system:
        out.append((f"<|im_start|>system\n{system}<|im_end|>\n", 0))
    for i, m in enumerate(messages):
        if m["role"] == "assistant":
            body = m["content"] + "\n".join(CALL % (json.dumps(c["name"]), json.dumps(c["arguments"])) for c in m.get("tool_calls", []))
            out += [("<|im_start|>assistant\n", 0), (body + "<|im_end|>", 1), ("\n", 0)]
        elif m["role"] == "tool":
            opened, more = messages[i - 1]["role"] == "tool", i + 1 < len(messages) and messages[i + 1]["role"] == "tool"
            out.append((("" if opened else "<|im_start|>user") + f"\n<tool_response>\n{m['content']}\n</tool_response>" + ("" if more else "<|im_end|>\n"), 0))
        else:
            out.append((f"<|im_start|>user\n{m['content']}<|im_end|>\n", 0))
    return out

def build_tokenizer(size=1024, seed=1):
    """Byte-level BPE whose merges never join a space or punctuation to a word, so that a value has the same tokens in a sentence
    and in JSON. The merges are learned with a strict splitter; the saved file names the common 'qwen2' splitter, which gives the
    same tokens because no merge crosses a border of the strict one."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    split = lambda rx: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(rx), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tail = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tok, r = Tokenizer(models.BPE()), R(seed)
    tok.pre_tokenizer, tok.decoder = split(r"\p{L}+|\p{N}" + tail), decoders.ByteLevel()
    texts = [re.sub("|".join(map(re.escape, SPECIALS)), "", "".join(s for s, _ in segments(make_doc(r)))) for _ in range(6000)]
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size - len(SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS[:3]])
    tok.add_tokens([AddedToken(s, special=False, normalized=False) for s in SPECIALS[3:]])
    strict = [tok.encode(t).ids for t in texts[:300]]
    tok.pre_tokenizer = split(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + tail)
    assert strict == [tok.encode(t).ids for t in texts[:300]] and tok.get_vocab_size() == size
    return tok

def encode(tok, doc, plain):
    """Token ids and one loss weight per token: 1 for what the assistant writes, `plain` for the rest."""
    parts = [(tok.encode(s, add_special_tokens=False).ids, 1.0 if assistant else plain) for s, assistant in segments(doc)]
    return [i for ids, _ in parts for i in ids], [w for ids, w in parts for _ in ids]
