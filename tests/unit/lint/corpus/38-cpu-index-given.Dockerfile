FROM python:3.11-slim
RUN pip install --no-cache-dir torch --index-url https://mirror.example/cpu
RUN pip install --no-cache-dir torch==2.4.0+cpu -f https://mirror.example/
