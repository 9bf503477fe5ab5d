FROM ubuntu:22.04
RUN apt-get update && apt-get install -y python3-pip && rm -rf /var/lib/apt/lists/*
RUN pip3 install --no-cache-dir torch
CMD ["python3", "serve.py", "--device", "cuda"]
