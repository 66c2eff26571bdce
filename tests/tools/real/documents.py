"""The commands that a document has its reader type, and whether each is run by a test.

    documents.py list DOCUMENT                     all of them: section, number there, text
    documents.py take DOCUMENT SECTION PIECE RAN [FROM=>TO...]
                                                   prints the one that has PIECE, with what stands for a reader's own names replaced,
                                                   and notes it in the file RAN
    documents.py block DOCUMENT SECTION PIECE [FROM=>TO...]
                                                   prints the block of YAML that has PIECE, in the same way
    documents.py judge DOCUMENT RAN LIST SCRIPTS [SECTION...]
                                                   holds all commands, or those of the sections, against RAN and LIST (documents.txt);
                                                   SCRIPTS is the folder of tests

A command is what stands in a block (``` with console, bash or sh, or indented), or in back quotes in the text where it begins with
the name of a program and says what the program is to do. A piece is looked for with each run of blanks as one; what is a whole
command is that one.
"""

import pathlib
import re
import sys

PROGRAMS = """apt-get base64 buildah chmod chown cp crictl ctr curl d8 d8-registry deckhouse-controller df dmesg docker du etcdctl find fsck
    export grep helm htpasswd install ip jq journalctl kubeadm kubectl mount openssl podman printf restic rsync setpriv sha256sum skopeo
    smartctl ss systemctl tar timedatectl umount""".split()
# Of these so many words are the name of what is done (`helm upgrade`), and no command.
NAMES = {"d8": 3, "helm": 2, "kubectl": 2}
ASSIGNMENT = re.compile(r"[A-Z_]+=\S")


def squeezed(text):
    return " ".join(text.split())


def is_command(text):
    """Whether a span of the text is a command, and not the name of one."""
    words = text.split()
    return bool(words) and words[0] in PROGRAMS and len(words) > NAMES.get(words[0], 1)


def goes_on(text):
    """Whether a shell waits for more: a line that ends so, or an open quote."""
    quote, escaped = "", False
    for letter in text:
        if escaped:
            escaped = False
        elif letter == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
    return bool(quote) or text.rstrip(" ").endswith(("\\", "|", "&&"))


def typed(lines, has_prompts):
    """The commands of a block, each with the lines that it goes on with."""
    commands = []
    for line in lines:
        if has_prompts and line.lstrip().startswith("$ "):
            commands.append(line.lstrip()[2:])
        elif commands and (has_prompts or goes_on(commands[-1])):
            commands[-1] += "\n" + line
        elif line.strip() and not line.lstrip().startswith("#"):
            commands.append(line)
    return commands


def dedented(lines):
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[margin:] for line in lines]


def parts_of(document):
    """(section, text) of each command in order, and of each block of YAML."""
    found, blocks, section, text = [], [], "", []
    # How far the text of the list item is indented in which we are; what is four columns behind that is code.
    indents = [0]

    def end_of_text():
        # A span may begin on one line and end on the next.
        for span in re.findall(r"`([^`]+)`", " ".join(text)):
            if is_command(span.replace("\\|", "|")):
                found.append((section, squeezed(span.replace("\\|", "|"))))
        text.clear()

    lines = document.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith("```"):
            end_of_text()
            kind, block = line.strip().strip("`"), []
            while not lines[at].lstrip().startswith("```"):
                block.append(lines[at])
                at += 1
            at += 1
            if kind in ("console", "bash", "sh"):
                found += [(section, one) for one in typed(dedented(block), kind == "console")]
            elif kind == "yaml":
                blocks.append((section, "\n".join(dedented(block))))
        elif line.startswith("#"):
            end_of_text()
            section, indents = line.lstrip("# ").strip(), [0]
        elif not line.strip():
            end_of_text()
        else:
            while indent < indents[-1]:
                indents.pop()
            if not text and lines[at - 2].strip() == "" and indent >= indents[-1] + 4:
                block = [line]
                while at < len(lines) and (not lines[at].strip() or len(lines[at]) - len(lines[at].lstrip()) >= indents[-1] + 4):
                    block.append(lines[at])
                    at += 1
                block = [one for one in dedented(block) if one.strip()]
                if block[0].split()[0] in PROGRAMS or ASSIGNMENT.match(block[0]):
                    found += [(section, one) for one in typed(block, False)]
                continue
            if item := re.match(r"\s*(?:[-*]|\d+\.)\s+", line):
                end_of_text()
                indents.append(item.end())
            elif line.startswith("|"):
                end_of_text()
            text.append(line.strip())
    end_of_text()
    return found, blocks


def commands_of(document):
    return parts_of(pathlib.Path(document).read_text())[0]


def find(parts, section, piece):
    """The one text in the section that is the piece, or has it."""
    texts = dict.fromkeys(text for name, text in parts if name == section and squeezed(piece) in squeezed(text))
    texts = [text for text in texts if squeezed(piece) == squeezed(text)] or list(texts)
    if len(texts) != 1:
        raise SystemExit(f"{len(texts)} under {section!r} have {piece!r}: {texts}")
    return texts[0]


def replaced(text, replacements):
    for one in replacements:
        old, _, new = one.partition("=>")
        if old not in text:
            raise SystemExit(f"{old!r}, which was to be replaced, is not in {text!r}")
        text = text.replace(old, new)
    return text


def take(document, section, piece, ran, *replacements):
    text = find(commands_of(document), section, piece)
    with open(ran, "a") as file:
        file.write(f"{pathlib.Path(document).stem}\t{section}\t{squeezed(text)}\n")
    print(replaced(text, replacements))


def block(document, section, piece, *replacements):
    print(replaced(find(parts_of(pathlib.Path(document).read_text())[1], section, piece), replacements))


def listed(path, name):
    """Of the document: (section, piece, verdict) of documents.txt."""
    document = section = piece = ""
    for line in pathlib.Path(path).read_text().split("\n"):
        if line.startswith("# "):
            document = line[2:].strip()
        elif line.startswith("## "):
            section = line[3:].strip()
        elif line.startswith("    "):
            if document == name:
                yield section, piece, line.strip()
        elif line.strip() and not line.startswith("//"):
            piece = line.strip()


def judge(document, ran, path, scripts, *sections):
    name = pathlib.Path(document).stem
    commands = [one for one in commands_of(document) if not sections or one[0] in sections]
    by_us = {tuple(line.split("\t")[1:]) for line in pathlib.Path(ran).read_text().splitlines() if line.split("\t")[0] == name}
    by_us = {one for one in by_us if not sections or one[0] in sections}
    wrong, known = [], set()
    for section, piece, verdict in listed(path, name):
        if sections and section not in sections:
            continue
        try:
            one = section, squeezed(find(commands, section, piece))
        except SystemExit as error:
            wrong.append(f"{path} has what {name} has not: {error}")
            continue
        known.add(one)
        # `run by TEST: TEXT`: the script of that test, or its source where it is one in Rust, has the text.
        if by := re.fullmatch(r"run by ([a-z0-9_/-]+): (.+)", verdict):
            files = [pathlib.Path(scripts) / f"{by[1]}.sh", pathlib.Path(scripts).parent / f"{by[1]}.rs"]
            if not any(file.is_file() and by[2] in file.read_text() for file in files):
                wrong.append(f"{section}: {one[1]}: {by[1]} has no {by[2]!r}")
        elif not re.match(r"not here: .{10,}", verdict):
            wrong.append(f"{section}: {one[1]}: neither `run by TEST: TEXT` nor `not here: REASON`: {verdict}")
        elif one in by_us:
            wrong.append(f"{section}: {one[1]}: is run, and said not to be")
    every = dict.fromkeys((section, squeezed(text)) for section, text in commands)
    wrong += [f"nothing runs it: {section}: {text}" for section, text in every if (section, text) not in known | by_us]
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{name}: {len(every)} commands, {len(by_us)} run here, {len(known - by_us)} by other tests or listed with a reason")


def main(order, document, *rest):
    if order == "list":
        numbers = {}
        for section, text in commands_of(document):
            numbers[section] = numbers.get(section, 0) + 1
            print(f"{section}\t{numbers[section]}\t{text}")
    else:
        {"take": take, "block": block, "judge": judge}[order](document, *rest)


if __name__ == "__main__":
    main(*sys.argv[1:])
