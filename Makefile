# Every target sets up .venv by itself; see data_scripts/make_env.py. Another Python: make PYTHON=python3.12 test
PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
# Two files are tested at a time, each on half of the cores.
THREADS = $(shell $(PYTHON) -c "import os; print(max(1, (os.cpu_count() or 2) // 2))")

.PHONY: help env book test lab serve measure gpu clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

env:
	@$(PYTHON) data_scripts/make_env.py

book: env  ## build the website into _build/html
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	$(BIN)/python data_scripts/check_book.py

test: book  ## lint, build the website, then run all tests and all notebooks
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest tests notebooks -n 2 --dist loadfile --nbval --nbval-current-env \
		--nbval-cell-timeout=1800 --nbval-sanitize-with=tests/nbval_sanitize.cfg

lab: env  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

serve: book  ## show the website on http://localhost:8000
	$(BIN)/python -m http.server $(PORT) --directory _build/html --bind 127.0.0.1

measure: env  ## measure everything on CIFAR-10 again (results/cifar10*.json; hours; resumable)
	$(BIN)/python data_scripts/measure_cifar10_full.py
	$(BIN)/python data_scripts/measure_cifar10.py

gpu:  ## all that waits for a GPU (results/gpu/; resumable). Needs no .venv: make gpu PYTHON=python3.12 ARGS="--list"
	@PYTHONPATH=. $(PYTHON) data_scripts/gpu.py $(ARGS)

clean:  ## delete the built website and the environment
	rm -rf _build .venv
