# Every target sets up what it needs by itself (scripts/bootstrap); the second time that costs nothing.

PYTHON = .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo test bench chaos soak fuzz compose-test check audit up down

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
	    while IFS='|' read -r target text; do printf '  make %-14s %s\n' "$$target" "$$text"; done

demo: ## real flights through real servers, and a worker killed on the way; ALL=1 takes all 336,776
	@sh scripts/bootstrap
	@$(PYTHON) -m examples.flights $(if $(filter-out 0,$(ALL)),--all)

# Tests wait for servers more than they compute, so more of them than there are cores; a file's tests share its servers.
# Files begin in the order of their folders. By default those with the fewest tests come last, and these are the longest.
PROCESSES = 3

test: ## run the tests on real servers; PYTEST_ARGS='-k watch -x' to choose, PROCESSES=0 for one after another
	@sh scripts/bootstrap test
	@.venv/bin/pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: ## measure throughput and latency
	@sh scripts/bootstrap bench
	@$(PYTHON) -m benchmarks $(BENCH_ARGS)

chaos: ## faults under load, and the proof that nothing was lost: MINUTES=10 SEED=… KINDS='workers clients'
	@sh scripts/bootstrap test
	@$(PYTHON) -m chaos run $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) \
	    $(if $(KINDS),--kinds '$(KINDS)')

soak: ## half of the highest rate for MINUTES=10: memory stays flat, and no queue grows
	@sh scripts/bootstrap test
	@$(PYTHON) -m chaos soak $(if $(MINUTES),--minutes $(MINUTES))

fuzz: ## bad input by the million through the real queue, and into the codec: INPUTS=1000000 CODEC=3000000 SEED=…
	@sh scripts/bootstrap test
	@sh scripts/bootstrap test fuzz || echo 'make fuzz: no atheris for this Python; bodies are changed blindly'
	@$(PYTHON) -m chaos.fuzz $(if $(INPUTS),--inputs $(INPUTS)) $(if $(CODEC),--codec $(CODEC)) $(if $(SEED),--seed $(SEED))

compose-test: ## start compose.yaml in a container engine and test it from outside
	@sh scripts/bootstrap test
	@sh scripts/compose-test

check: ## lint, formatting, types and known vulnerabilities
	@sh scripts/bootstrap test check
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy -p holdfast
	@.venv/bin/mypy -p examples.flights
	@MYPYPATH=examples/sqlite_store/src .venv/bin/mypy -p holdfast_sqlite
	@.venv/bin/mypy -p examples.howto
	@.venv/bin/mypy -p chaos
	@.venv/bin/mypy tests/*.py tests/typing
	@for folder in $(dir $(wildcard tests/*/conftest.py)) $(dir $(wildcard tests/*/test_*.py)); do \
	    echo "$$folder"; done | sort -u | while read -r folder; do MYPYPATH=tests .venv/bin/mypy "$$folder" || exit 1; done
	@$(PYTHON) scripts/audit.py || [ $$? -eq 2 ]

audit: ## look for known vulnerabilities of the dependencies; fails where that cannot be found out
	@sh scripts/bootstrap check
	@$(PYTHON) scripts/audit.py

up: ## start RabbitMQ, MongoDB and a worker on this machine, in the background
	@sh scripts/bootstrap
	@.venv/bin/holdfast dev --detach

down: ## stop what `make up` started; the data stays in .local/
	@sh scripts/bootstrap
	@.venv/bin/holdfast dev --stop
