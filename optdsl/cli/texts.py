"""The descriptions of the commands in `optdsl COMMAND --help`."""

LIST = """\
List the specifications of the library by kind, each with its bytes of state, its paper, what it
learns and needs, where it runs, and what it is compared with in tests; and those of --path, of the
directories in OPTDSL_PATH and of installed packages, each with its file. Their names are what
`optdsl show`, `optdsl train` and `optdsl.load` take. The exit status is 1 when some cannot be
listed; the reasons are printed."""

CHECK = """\
Find every mistake of every file, with its place and a hint, and say how many files were checked.
No file is changed. The exit status is 0 when there is no mistake, 1 when there is one, and 2 when
a file cannot be read."""

SHOW = """\
Print the page of a specification: its equations, hyperparameters, what it learns, and its states
with their bytes. An option prints something else instead."""

FMT = """\
Rewrite each file in the canonical layout, in place. With --check or --diff nothing is changed, and
the exit status is 1 when a file would change. A file with syntax mistakes is left as it is."""

VERIFY = """\
Decide the claims of specifications, `recovers` and `misses`: each one is proved, or refuted with an
example, or else tested on examples. The exit status is 1 when a claim is refuted."""

EJECT = """\
Print or write an optimizer as one Python file: a torch.optim.Optimizer class that imports nothing
but PyTorch and the standard library, and takes the same steps. The file is yours. With --learn
it learns what the rule says. What a file cannot bring along is refused with the reason."""

BLEND = """\
Print or write a specification that mixes the updates of two rules or more, with weights that add up
to 1 and are learned while training. The text is a start, to be edited."""
