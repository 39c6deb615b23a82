# The broker, and what docker-compose.yml needs beside it. Static binaries on an
# empty base: no shell, no packages, nothing to update but the binary.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/tokenbroker ./cmd/tokenbroker \
 && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/tokenctl ./cmd/tokenctl \
 && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/compose ./deploy/compose

# Prepares the demonstration of docker-compose.yml; not for production.
FROM scratch AS compose
COPY --from=build /out/compose /compose
ENTRYPOINT ["/compose"]

# The operator's tool, for jobs: docker build --target tokenctl.
FROM scratch AS tokenctl
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/tokenctl /tokenctl
USER 65532:65532
ENTRYPOINT ["/tokenctl"]

FROM scratch AS tokenbroker
# Authorities for token endpoints with public certificates.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/tokenbroker /tokenbroker
USER 65532:65532
EXPOSE 7443
ENTRYPOINT ["/tokenbroker"]
CMD ["serve", "--config", "/etc/tokenbroker/tokenbroker.yaml"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/tokenbroker", "health", "--config", "/etc/tokenbroker/tokenbroker.yaml"]
