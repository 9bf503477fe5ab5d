FROM python:3.11-slim
ADD https://models.example/resnet50.pth /models/
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://models.example/vit.pt /models/
ADD https://u:p@models.example/a.safetensors?token=abc#x /models/a.safetensors
ADD https://models.example/readme.txt /models/
