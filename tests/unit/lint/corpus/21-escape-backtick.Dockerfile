# escape=`
FROM mcr.example/windows/servercore:ltsc2022
WORKDIR C:\app
COPY . C:\app\
RUN powershell -Command `
    Invoke-WebRequest -Uri https://models.example/m.pt -OutFile C:\m.pt
RUN pip.exe install torch
