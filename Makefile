# make lab | make test | make check | make book | make course; every target sets up what it needs first. See README.md.
PYTHON ?= python3
PROFILE ?= small
NOTEBOOKS ?=
EDITION ?=
VENV := .venv
BIN := $(VENV)/bin
export STEER_PROFILE := $(PROFILE)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE  # the tests start a hundred processes, each of which would compile all modules anew

# STEER_WHEELS=folder installs from that folder alone (a lab without network; `make wheels` fills it).
PIP_SOURCE := $(if $(STEER_WHEELS),--no-index --find-links "$(STEER_WHEELS)")

# What fetching needs, so that it can begin before all else is installed.
TO_FETCH := filelock platformdirs tqdm

# Root is the only user in many containers; the server still listens on localhost alone and asks for its token.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# A browser for the browser tests: the one that is there, or Debian's where it may be installed.
BROWSER := { command -v chromium || command -v chromium-browser || command -v google-chrome || \
  { test "$$(id -u)" = 0 && apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium; }; } \
  > /dev/null

# Two processes, one thread each: on two cores that is twice as fast as one process with two threads.
PYTEST := OMP_NUM_THREADS=1 STEER_PROFILE=small STEER_PROGRESS=0 $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout 3600 --nbval-sanitize-with tests/nbval_sanitize.cfg

# Notebooks in the order of the tests: those that take minutes first, so that no core is left idle at the end.
LONG := 13 12 14 17 08 07 15 10 06 05 04 11 02 03 18 X1 X2
BOOKS := $(notdir $(wildcard notebooks/*.ipynb))
LONG_BOOKS := $(foreach number,$(LONG),$(filter $(number)_%,$(BOOKS)))
TESTED := $(addprefix build/tests/notebooks/,$(LONG_BOOKS)) tests/browser \
  $(addprefix build/tests/notebooks/,$(filter-out $(LONG_BOOKS),$(BOOKS)))

# Unit tests: likewise, those of clusters and servers first.
SLOW_ROOMS := tests/larger_machines tests/course tests/language
ROOMS := $(SLOW_ROOMS) $(filter-out $(SLOW_ROOMS) tests/browser tests/benchmarks,$(patsubst %/,%,$(wildcard tests/[a-z]*/)))

# When make began, for the minutes that the tests record.
STARTED := $(shell date +%s)
REPORT := STEER_RESULTS=build/results.json $(BIN)/python -m helpers.course.report

# Extensions of JupyterLab that fail on pages without it, where they are installed.
VOILA := --Voila.ip=localhost --VoilaConfiguration.extension_denylist=@jupyter/nbgrader \
  --VoilaConfiguration.extension_denylist=@jupyter-notebook/lab-extension \
  --VoilaConfiguration.extension_denylist=ipylab --VoilaConfiguration.extension_denylist=jupyterlab-jupytext

.PHONY: lab test check unit course data wheels student release explore slides book lint format lock clean

# `make lab EDITION=student` opens notebooks to fill in; what a learner has written into them stays.
LAB := $(if $(EDITION),build/student/notebooks,notebooks)
ifneq ($(filter-out student,$(EDITION)),)
  $(error EDITION is '$(EDITION)': leave it out, or set it to 'student')
endif

lab: $(VENV)/lab.stamp data $(EDITION)
	$(BIN)/jupyter lab --ip=localhost $(AS_ROOT) $(LAB)/00_start_here.ipynb

# Every notebook runs once, blank: the checks go on with their references, so what it computes is what its source does,
# and nbval compares it with the outputs of the source. That a source differs from it in right solutions alone, the
# unit tests see without running it.
test: $(VENV)/test.stamp data
	$(BIN)/python -m helpers.course.requirements
	$(MAKE) -j2 lint unit
	$(BIN)/python -m helpers.course.editions tests
	$(PYTEST) $(NBVAL) --junitxml=build/tests/report.xml -rs $(TESTED); status=$$?; \
	  $(REPORT) test $(STARTED) build/tests/report.xml build/unit.xml && exit $$status

# What to run after every change: style, types, and the unit tests but for the slow ones.
check: $(VENV)/test.stamp data
	$(MAKE) -j2 lint unit QUICK='-m "not slow"'
	$(REPORT) check $(STARTED)

unit: $(VENV)/test.stamp data
	$(PYTEST) -p no:nbval --durations=20 --durations-min=5 --junitxml=build/unit.xml $(QUICK) $(ROOMS)

course: $(VENV)/lab.stamp data
	$(BIN)/python -m helpers.course.run $(NOTEBOOKS)

data: $(VENV)/lab.stamp
	$(BIN)/python -m helpers.course.fetch

# Everything that `make lab`, `make book` and `make test` install or download, in one folder to carry to a lab.
wheels: $(VENV)/lab.stamp
	$(BIN)/pip download -q $(PIP_SOURCE) --dest "$(or $(DIR),wheels)" -c constraints.txt "setuptools>=77" .[lab,book,test]
	$(BIN)/python -m helpers.course.fetch --wheels "$(or $(DIR),wheels)"

# Notebooks to fill in, made from those with solutions: build/student/notebooks. What was written into them stays.
student: $(VENV)/lab.stamp
	$(BIN)/python -m helpers.course.editions student

# The course with these notebooks in one zip, for a class; WHEELS=folder (see `wheels`) puts the packages inside.
release: $(VENV)/lab.stamp
	$(BIN)/python -m helpers.course.editions release $(if $(WHEELS),--wheels "$(WHEELS)")

# The two explorers as pages without code, on localhost with a token.
explore: $(VENV)/lab.stamp data
	mkdir -p build/explore && cp notebooks/X*.ipynb build/explore
	$(BIN)/voila build/explore $(VOILA) --Voila.auto_token=True

# The 45-minute lecture from the tagged cells of the notebooks: build/slides/index.html.
slides: $(VENV)/lab.stamp
	$(BIN)/python -m helpers.course.slides

# The course as a site that needs no network, from the notebooks as committed: build/book/index.html.
book: $(VENV)/book.stamp
	$(BIN)/python -m helpers.course.book

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-output --keep-count --keep-id notebooks/*.ipynb

# Rewrites constraints.txt from what is installed, after a pin in pyproject.toml changed.
lock: $(VENV)/test.stamp
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

# All but what learners have written into the student edition.
clean:
	rm -rf $(VENV)
	[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name student -exec rm -rf {} +

# Data and models come over the network while pip unpacks the packages. What is missing after that, `data` fetches.
$(VENV)/lab.stamp: pyproject.toml constraints.txt
	$(PYTHON) helpers/course/requirements.py --python-only
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the packages of pyproject.toml into $(VENV) (about 3 GB, a few minutes)"
	$(BIN)/pip install -q $(PIP_SOURCE) -c constraints.txt $(TO_FETCH)
	$(BIN)/python -m helpers.course.fetch --download-only > /dev/null 2>&1 & \
	  $(BIN)/pip install -q $(PIP_SOURCE) -c constraints.txt -e .[lab]; status=$$?; wait; exit $$status
	touch $@

$(VENV)/book.stamp: $(VENV)/lab.stamp
	$(BIN)/pip install -q $(PIP_SOURCE) -c constraints.txt -e .[lab,book]
	touch $@

# With what the book is made of, since the tests make it.
$(VENV)/test.stamp: $(VENV)/lab.stamp
	{ $(BROWSER) || echo "no Chromium: install it with your system's packages, or the browser tests are skipped"; } & \
	  $(BIN)/pip install -q $(PIP_SOURCE) -c constraints.txt -e .[lab,book,test]; status=$$?; wait; exit $$status
	touch $@
