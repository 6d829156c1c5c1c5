# Owns the image of every role: API, orchestrator and cluster worker differ by their command only.
# Built by docker-compose.yml, or: docker build -t slipway .
FROM node:20-bookworm-slim AS build
WORKDIR /src
COPY package.json package-lock.json .npmrc ./
RUN npm install --no-save
COPY . .
# What is left is what runs: no development packages, and of the five native Temporal cores only this machine's.
RUN node scripts/build.mjs \
  && npm prune --omit=dev \
  && find node_modules/@temporalio/core-bridge/releases -mindepth 1 -maxdepth 1 -type d \
     ! -name "$(uname -m)-unknown-linux-gnu" -exec rm -r {} +

FROM node:20-bookworm-slim
# The native Temporal core checks certificates against those of the system.
RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY --from=build /src/package.json ./
COPY --from=build /src/node_modules ./node_modules
COPY --from=build /src/dist ./dist
RUN ln -s /app/dist/cli/main.js /usr/local/bin/slipway \
  && chmod +x dist/cli/main.js \
  && install -d -o node -g node -m 0700 /var/lib/slipway
ENV NODE_ENV=production \
    SLIPWAY_DATA_DIR=/var/lib/slipway \
    SLIPWAY_LISTEN=0.0.0.0:7333
VOLUME /var/lib/slipway
USER node
EXPOSE 7333
CMD ["node", "dist/api/main.js"]
