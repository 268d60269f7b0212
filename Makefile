# Everything sets itself up in .venv from a bare Python 3.11+; PYTHON=python3.12 chooses another.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test faults test-browser lab lint figures notebooks course-zip page site clean

demo: .venv/ready
	$(BIN)/akt-lab demo

# A process a core, one thread each: two threads of a small network wait more than they work.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile

# Files damaged, disks full, processes killed: a table of what came of it, into site/promises.md.
faults: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.campaign

test-browser: .venv/ready
	$(BIN)/python tests/browser/chromium.py
	$(BIN)/python -m pytest tests/browser -m browser

lab: .venv/ready
	$(BIN)/akt-lab lab

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

figures: .venv/ready
	$(BIN)/akt-lab figures

notebooks: .venv/ready
	$(BIN)/python notebooks/course.py build
	AKT_STRICT_TIME=1 $(BIN)/python notebooks/course.py run

course-zip: .venv/ready
	$(BIN)/python notebooks/course.py zip

# Four pictures that answer as one touches them, in one file: build/explore.html.
page: .venv/ready
	$(BIN)/python site/explorables/page.py

site: .venv/ready build/notebooks/8-to-the-edge.ipynb course-zip
	$(BIN)/python site/build.py

build/notebooks/8-to-the-edge.ipynb: .venv/ready
	$(BIN)/python notebooks/course.py run

clean:
	rm -rf .venv

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "AKT Lab needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv || { echo "no venv: on Debian or Ubuntu, apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --progress-bar on -e '.[lab,dev]'
	touch $@
