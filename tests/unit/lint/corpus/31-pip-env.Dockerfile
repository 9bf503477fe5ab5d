FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=1 NVIDIA_VISIBLE_DEVICES=all
RUN pip install torch torchvision
RUN python3 -m pip install -U pip setuptools
