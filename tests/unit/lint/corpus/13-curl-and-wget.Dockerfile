FROM python:3.11-slim
RUN curl -fsSL -o /m.pt https://models.example/m.pt
RUN wget -q "https://models.example/n.ckpt?download=1" && echo "abc  n.ckpt" | sha256sum -c
RUN wget https://models.example/o.ckpt?download=1
