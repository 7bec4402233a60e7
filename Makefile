# make demo    quantize the embedded model three ways and look at the result
# make test    build everything and run all tests
# make build   the program, build/release/nibble
# Each installs the Debian packages it needs when it may (root, or sudo without a password), else names them.
.PHONY: build demo test packages format check clean install
.DEFAULT_GOAL := build

BUILD := build/release
JOBS ?= $(shell nproc)

build: packages
	@cmake --preset release > build/configure.log 2>&1 || (cat build/configure.log; exit 1)
	@cmake --build $(BUILD) -j $(JOBS) --target nibble_program

demo: build
	@tools/demo.py $(BUILD)/nibble

test: packages
	@cmake --preset release -DNIBBLE_TESTS=ON > build/configure.log 2>&1 || (cat build/configure.log; exit 1)
	@cmake --build $(BUILD) -j $(JOBS)
	@cd $(BUILD) && ctest -j $(JOBS) --output-on-failure

packages:
	@mkdir -p build
	@tools/packages.sh

format:
	@git ls-files '*.h' '*.cpp' '*.c' | xargs clang-format-14 -i

check:
	@tools/check_layers.py
	@tools/check_format.sh

install: build
	cmake --install $(BUILD)

clean:
	rm -rf build
