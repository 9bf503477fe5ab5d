FROM python:3.11-slim
COPY ["serve.py", "src/", "/app/"]
COPY ["checkpoint.pth.tar", "/app/model dir/"]
RUN ["pip", "install", "torch"]
RUN ["/bin/sh", "-c", "pip install fastapi"]
RUN ["chown", "-R", "nobody", "/app"]
