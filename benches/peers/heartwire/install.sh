#!/bin/sh
# Nothing to install: cargo built it together with the load generator.
