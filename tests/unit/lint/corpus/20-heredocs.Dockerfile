# syntax=docker/dockerfile:1
FROM python:3.11-slim
RUN <<EOF
apt-get update
apt-get install -y curl
pip install torch
EOF
COPY <<-"NOTE" /etc/motd
	COPY . .
	FROM nothing
	NOTE
RUN python3 <<'PY'
print("RUN pip install torch")
PY
COPY checkpoint.pth.tar /app/
