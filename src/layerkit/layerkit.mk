# Targets of an image that layerkit builds. In a Makefile:
#
#     include $(shell layerkit makefile)
#
# Variables, each with its default:
#     LAYERKIT        layerkit
#     LAYERKIT_DIR    .            folder of layerkit.toml
#     LAYERKIT_FLAGS               more options of every command, as --set image.base=REF
#     TAG             latest

LAYERKIT ?= layerkit
LAYERKIT_DIR ?= .
LAYERKIT_FLAGS ?=
TAG ?= latest

.PHONY: image push plan

image:  ## Build into the local Docker.
	$(LAYERKIT) build -C "$(LAYERKIT_DIR)" --tag $(TAG) $(LAYERKIT_FLAGS)

push:  ## Build and push.
	$(LAYERKIT) build -C "$(LAYERKIT_DIR)" --tag $(TAG) --push $(LAYERKIT_FLAGS)

plan:  ## Say what push would do.
	$(LAYERKIT) plan -C "$(LAYERKIT_DIR)" --tag $(TAG) --push $(LAYERKIT_FLAGS)
