FROM python:3.11-slim
WORKDIR /tmp
COPY data.tar.gz /tmp/data.tar.gz
RUN tar -xzf /tmp/data.tar.gz -C / && rm -f /tmp/data.tar.gz
COPY checkpoint.pth.tar .
RUN rm checkpoint.pth.tar
