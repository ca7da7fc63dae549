# Everything runs in a virtual environment of its own, made with pip as pip is configured.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.ready-for-the-demo

PIP := $(BIN)/python -m pip install --no-compile -c constraints.txt
# Builds with what is in the environment, so that only what has changed is compiled.
NATIVE_MODULE := -q --no-deps --no-build-isolation -e .
# Of the first weights alone are read, and it asks for an old torch; the second asks for an OpenCV
# that needs libGL, beside the one that others ask for.
WITHOUT_WHAT_THEY_ASK_FOR := --no-deps facenet-pytorch==2.6.0 'insightface>=2.1'

STUB := src/vramx/_core.pyi

# Without the values of addresses, which differ in every process, and with the types of a slot, which
# carries none.
define write_stub
	$(BIN)/python -m nanobind.stubgen -q -m vramx._core -o $(1)
	@sed -i 's/^\([A-Z_]*: int\) = [0-9]*$$/\1/' $(1)
	@sed -i 's/__call__(self, \/, \*args, \*\*kwargs):/__call__(self, *args: Any, **kwargs: Any) -> Any:/' $(1)
	@$(BIN)/ruff format -q $(1)
endef

export VIRTUAL_ENV := $(abspath $(VENV))
export PATH := $(VIRTUAL_ENV)/bin:$(PATH)
# pip compiles nothing below: what is used is compiled once, also where Python is told to keep nothing.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test thorough lint format types stubs bench pictures clean
.PHONY: container native sanitize sanitize-address sanitize-thread moments state-machine kills fuzz

help:
	@echo 'make demo      enlarge a photograph in less memory than the weights of the network need'
	@echo 'make test      the tests; those that need a GPU say why they are skipped'
	@echo 'make lint      style, formatting and spelling; make format mends the formatting'
	@echo 'make types     mypy, and that the stub of the native module is up to date'
	@echo 'make stubs     write that stub anew'
	@echo 'make native    the native tests alone'
	@echo 'make thorough  the tests with as much at random as before a release: minutes more'
	@echo 'make moments   the tests of moves again, at fresh random moments'
	@echo 'make state-machine PROGRAMS=10000  random programs against the core'
	@echo 'make container  as root: the steps of the container, in a clean Debian root'
	@echo 'make kills     videos and folders whose processes are killed at 50 moments each'
	@echo 'make fuzz INPUTS=10000  so many damaged files of each kind to each reader'
	@echo 'make sanitize  the native tests under address, undefined and thread sanitizers'
	@echo 'make bench     what calls and the cyclic model cost, as JSON in build/bench'
	@echo 'make pictures  draw the pictures in docs anew'
	@echo 'make clean     remove the virtual environment, builds and caches'

# Directories are prerequisites too, so that a removed file counts as a change; a stamp has the
# time of the start, so that a change made meanwhile counts as well.
PINS := pyproject.toml constraints.txt
SOURCES := $(PINS) CMakeLists.txt $(shell find cmake csrc)

# With a pip that knows groups, and takes a third of the time of the one that comes with Python 3.11.
define begin_environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo '$(PYTHON) is not Python 3.10 or newer; try make PYTHON=python3.12' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $(VENV)/.started
	$(if $(filter $(PINS),$?),$(PIP) -q 'pip>=25.1' --upgrade && $(PIP) -q --group build)
	$(PIP) $(NATIVE_MODULE)
endef

$(READY): $(SOURCES)
	$(begin_environment)
	$(if $(filter $(PINS),$?),$(PIP) 'vramx[dev]' && $(PIP) -q $(WITHOUT_WHAT_THEY_ASK_FOR))
	@cp -p $(VENV)/.started $(DEMO_READY)
	@mv $(VENV)/.started $@

# A part of what all else needs, in the same environment.
$(DEMO_READY): $(SOURCES)
	@echo 'installing torch, the weights and what else the demo needs; this is done once'
	$(begin_environment)
	$(PIP) 'vramx[demo]'
	@mv $(VENV)/.started $@

demo: $(DEMO_READY)
	$(BIN)/python -m vramx.demo.super_resolution $(ARGS)

# Each process computes on one thread.
ONE_PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
PYTEST := $(ONE_PYTEST) -n 2 --dist worksteal
CTEST := $(BIN)/ctest -j 2 --output-on-failure --no-tests=error

# Ray's tests are apart from the others: one cluster, of many processes, serves them all, and
# needs both cores.
RAY_TESTS := $(ONE_PYTEST) tests/ray_cluster

test: export VRAMX_TEST_PROGRAMS := 60
thorough: export VRAMX_TEST_PROGRAMS := 500
thorough: export VRAMX_TEST_KILLS := 10
thorough: export VRAMX_TEST_INPUTS := 400
thorough: export VRAMX_TEST_CLIENTS := 200
thorough: export VRAMX_TEST_PICTURES := 10000
test thorough: native
	$(PYTEST) --ignore=tests/ray_cluster $(ARGS)
	$(RAY_TESTS)

# Seeds are printed, and chosen with SEED=.
SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
PROGRAMS ?= 10000
RANDOM_PROGRAMS := $(PYTEST) --hypothesis-seed=$$VRAMX_TEST_SEED

moments: export VRAMX_TEST_SEED := $(SEED)
moments: export VRAMX_TEST_PROGRAMS := 30
moments: $(READY)
	$(BIN)/cmake -S tests/native -B build/native -G Ninja
	$(BIN)/cmake --build build/native
	$(CTEST) --test-dir build/native \
	  -R 'conformance|omissions|residency|mapped_test|managed|scratch|faults|orders'
	$(RANDOM_PROGRAMS) tests/test_state_machine.py tests/test_pointers.py \
	  tests/test_same_bits.py tests/test_writes.py tests/test_threads.py tests/test_cuda_loopback.py

state-machine: export VRAMX_TEST_SEED := $(SEED)
state-machine: export VRAMX_TEST_PROGRAMS := $(PROGRAMS)
state-machine: $(READY)
	$(RANDOM_PROGRAMS) tests/test_state_machine.py

kills: $(READY)
	VRAMX_TEST_KILLS=$(or $(KILLS),50) $(BIN)/python -m pytest -q tests/pipelines/test_kills.py

fuzz: $(READY)
	VRAMX_TEST_INPUTS=$(or $(INPUTS),10000) $(BIN)/python -m pytest -q tests/fuzz

container: $(READY)
	container/check.sh build/container $(BIN)/python

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	find csrc tests -name '*.[ch]' -o -name '*.[ch]pp' | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/codespell

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	find csrc tests -name '*.[ch]' -o -name '*.[ch]pp' | xargs $(BIN)/clang-format -i

types: $(READY)
	$(BIN)/mypy --strict src
	@mkdir -p build
	$(call write_stub,build/_core.pyi)
	@diff -u $(STUB) build/_core.pyi || { echo '$(STUB) is out of date: make stubs' >&2; exit 1; }

stubs: $(READY)
	$(call write_stub,$(STUB))

sanitize: sanitize-address sanitize-thread

native sanitize-address sanitize-thread: $(READY)
	$(BIN)/cmake -S tests/native -B build/$@ -G Ninja -DVRAMX_SANITIZE=$(subst sanitize-,,$(filter-out native,$@))
	$(BIN)/cmake --build build/$@
	$(CTEST) --test-dir build/$@

bench: $(READY)
	@mkdir -p build/bench
	-$(BIN)/python -m benchmarks calls --json build/bench/calls.json
	$(BIN)/python -m benchmarks cycle --json build/bench/cycle.json $(ARGS)

pictures: $(READY)
	$(BIN)/python examples/residency.py --policy lru --picture docs/pictures/lru.png
	$(BIN)/python examples/residency.py --picture docs/pictures/plan.png
	$(BIN)/python examples/residency.py --unpack-rate 1TB/s --picture docs/pictures/packed.png
	$(BIN)/python -m vramx.demo.super_resolution --simulated --output docs/pictures/enlarged.jpg
	$(BIN)/python -m pytest -q tests/service/test_page.py -k four_times
	$(BIN)/python -c 'from PIL import Image; \
	  page = Image.open("build/screenshots/enlarged-light.png").convert("RGB"); \
	  page.save("docs/pictures/page.jpg", quality=85)'

clean:
	rm -rf $(VENV) build dist .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache enlarged.png residency.html
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
