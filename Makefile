# make lab | make test | make course; every target sets up what it needs first. See README.md.
PYTHON ?= python3
PROFILE ?= small
NOTEBOOKS ?=
VENV := .venv
BIN := $(VENV)/bin
export STEER_PROFILE := $(PROFILE)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# STEER_WHEELS=folder installs from that folder alone (a lab without network; `make wheels` fills it).
PIP_SOURCE := $(if $(STEER_WHEELS),--no-index --find-links "$(STEER_WHEELS)")

# Root is the only user in many containers; the server still listens on localhost alone and asks for its token.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# A browser for the browser tests: the one that is there, or Debian's where it may be installed.
BROWSER := { command -v chromium || command -v chromium-browser || command -v google-chrome || \
  { test "$$(id -u)" = 0 && apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium; }; } \
  > /dev/null

# Two processes, one thread each: on two cores that is twice as fast as one process with two threads.
PYTEST := OMP_NUM_THREADS=1 STEER_PROFILE=small $(BIN)/pytest -n 2 --dist loadscope
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout 3600 --nbval-sanitize-with tests/nbval_sanitize.cfg

# Extensions of JupyterLab that fail on pages without it, where they are installed.
VOILA := --Voila.ip=localhost --VoilaConfiguration.extension_denylist=@jupyter/nbgrader \
  --VoilaConfiguration.extension_denylist=@jupyter-notebook/lab-extension

.PHONY: lab test course data wheels student release explore slides lint format lock clean

lab: $(VENV)/lab.stamp data
	$(BIN)/jupyter lab --ip=localhost $(AS_ROOT) notebooks/00_start_here.ipynb

# Notebook 13 takes longest when nothing is cached, so this begins with it; begun last it leaves a core idle for long.
test: $(VENV)/test.stamp data
	$(BIN)/python -m helpers.course.requirements
	$(MAKE) lint
	$(PYTEST) --ignore=tests/browser tests
	$(PYTEST) $(NBVAL) --no-loadscope-reorder notebooks/13*.ipynb notebooks/1[!3]*.ipynb notebooks/[!1]*.ipynb
	$(MAKE) student
	$(PYTEST) $(NBVAL) --junitxml=build/tests/student.xml build/student/notebooks
	$(PYTEST) --junitxml=build/tests/browser.xml -rs tests/browser
	STEER_RESULTS=build/results.json $(BIN)/python -m helpers.course.report build/tests/student.xml build/tests/browser.xml

course: $(VENV)/lab.stamp data
	$(BIN)/python -m helpers.course.run $(NOTEBOOKS)

data: $(VENV)/lab.stamp
	$(BIN)/python -m helpers.course.fetch

# Everything that `make lab` and `make test` install or download, in one folder to carry to a lab.
wheels: $(VENV)/lab.stamp
	$(BIN)/pip download -q $(PIP_SOURCE) --dest "$(or $(DIR),wheels)" -c constraints.txt "setuptools>=77" .[lab,test]
	$(BIN)/python -m helpers.course.fetch --wheels "$(or $(DIR),wheels)"

# Notebooks to fill in, made from those with solutions: build/student/notebooks.
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

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-output --keep-count --keep-id notebooks/*.ipynb

# Rewrites constraints.txt from what is installed, after a pin in pyproject.toml changed.
lock: $(VENV)/test.stamp
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf $(VENV) build

$(VENV)/lab.stamp: pyproject.toml constraints.txt
	$(PYTHON) helpers/course/requirements.py --python-only
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the packages of pyproject.toml into $(VENV) (about 3 GB, a few minutes)"
	$(BIN)/pip install -q $(PIP_SOURCE) -c constraints.txt -e .[lab]
	touch $@

$(VENV)/test.stamp: $(VENV)/lab.stamp
	$(BIN)/pip install -q $(PIP_SOURCE) -c constraints.txt -e .[lab,test]
	$(BROWSER) || echo "no Chromium: install it with your system's packages, or the browser tests are skipped"
	touch $@
