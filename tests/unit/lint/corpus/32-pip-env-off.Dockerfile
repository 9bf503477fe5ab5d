FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=0
RUN python3.12 -m pip install -U pip && pip3 cache purge
RUN PIP_NO_CACHE_DIR=1 pip install numpy
RUN pip3.12 install --upgrade numpy; rm -rf /root/.cache
RUN pip download numpy
