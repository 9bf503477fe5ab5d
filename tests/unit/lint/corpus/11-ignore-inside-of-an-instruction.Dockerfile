FROM python:3.11-slim
RUN apt-get update && \
    # layerkit: ignore=apt-cache
    apt-get install -y libgomp1
