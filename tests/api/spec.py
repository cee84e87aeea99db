# SPDX-License-Identifier: Apache-2.0
"""docs/openapi.yaml with the standard library alone: the part of YAML that it is written in, $ref, a small
validator, and bodies made from schemas."""
import re


class Flow:
    """{a: b, c: [d, "e"]}"""

    def __init__(self, text):
        self.text, self.at = text, 0

    def skip(self):
        while self.at < len(self.text) and self.text[self.at] == " ":
            self.at += 1

    def value(self, ends=",}]"):
        self.skip()
        c = self.text[self.at]
        if c == "{":
            return self.many("}", {})
        if c == "[":
            return self.many("]", [])
        if c == '"':
            end = self.text.index('"', self.at + 1)
            word, self.at = self.text[self.at + 1:end], end + 1
            return word
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in ends:
            self.at += 1
        return scalar(self.text[start:self.at].strip())

    def many(self, close, out):
        self.at += 1
        self.skip()
        while self.text[self.at] != close:
            if close == "}":
                key = self.value(ends=":")
                self.skip()
                self.at += 1
                out[str(key)] = self.value()
            else:
                out.append(self.value())
            self.skip()
            if self.text[self.at] == ",":
                self.at += 1
            self.skip()
        self.at += 1
        return out


def scalar(text):
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def inline(text):
    return Flow(text).value() if text[0] in '{["' else scalar(text)


def block(lines, at, indent):
    """Lines from `at` that are indented by `indent`: a mapping or a list. Returns it and the next line."""
    is_list = lines[at][1].startswith("- ")
    out = [] if is_list else {}
    while at < len(lines) and lines[at][0] == indent:
        text = lines[at][1]
        at += 1
        if is_list:
            out.append(inline(text[2:]))
            continue
        key, rest = re.match(r'"?([^":]+)"?: *(.*)', text).groups()
        if rest:
            out[key] = inline(rest)
        elif at < len(lines) and lines[at][0] > indent:
            out[key], at = block(lines, at, lines[at][0])
        else:
            out[key] = None
    return out, at


def load(path):
    lines = []
    with open(path, encoding="utf-8") as f:
        for line in f:
            text = line.strip()
            if text and not text.startswith("#"):
                lines.append((len(line) - len(line.lstrip()), text))
    return Spec(block(lines, 0, 0)[0])


class Spec:
    def __init__(self, root):
        self.root = root

    def follow(self, node):
        while isinstance(node, dict) and "$ref" in node:
            target = self.root
            for part in node["$ref"][2:].split("/"):
                target = target[part]
            more = {k: v for k, v in node.items() if k != "$ref"}
            node = {**target, **more}
        return node

    def operations(self):
        for path, methods in self.root["paths"].items():
            for method, operation in methods.items():
                yield path, method.upper(), operation

    def errors(self, schema, value, where="body"):
        """Why value does not fit; an empty list when it does."""
        schema = self.follow(schema)
        if value is None and schema.get("nullable"):
            return []
        kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
        kind = schema.get("type")
        if kind and (not isinstance(value, kinds[kind]) or (kind == "integer" and isinstance(value, bool))):
            return ["%s is not %s: %r" % (where, kind, value)]
        out = []
        if "enum" in schema and value not in [str(x) for x in schema["enum"]]:
            out.append("%s: %r is none of %s" % (where, value, schema["enum"]))
        if kind == "integer" and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            out.append("%s: %d is out of range" % (where, value))
        if kind == "object":
            properties = schema.get("properties", {})
            out += ["%s has no %s" % (where, k) for k in schema.get("required", []) if k not in value]
            for k, v in value.items():
                if k in properties:
                    out += self.errors(properties[k], v, where + "." + k)
                elif schema.get("additionalProperties") is False:
                    out.append("%s: %s is not described" % (where, k))
        if kind == "array" and "items" in schema:
            for i, v in enumerate(value):
                out += self.errors(schema["items"], v, "%s[%d]" % (where, i))
        return out

    def sample(self, schema, name="", full=False):
        """A value that fits."""
        schema = self.follow(schema)
        kind = schema.get("type")
        if "enum" in schema:
            return str(schema["enum"][0])
        if kind == "object":
            wanted = schema.get("required", []) if not full else schema.get("properties", {})
            return {k: self.sample(schema["properties"][k], k, full) for k in wanted
                    if not self.follow(schema["properties"][k]).get("deprecated")}
        if kind == "array":
            return []
        if kind == "boolean":
            return False
        if kind == "integer":
            return schema.get("minimum", 0)
        return {"guest_mac": "06:00:00:00:00:01", "ipv4_address": "169.254.169.254"}.get(name, "x")
