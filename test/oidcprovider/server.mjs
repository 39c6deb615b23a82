// Serves the real oidc-provider (npm, certified) on loopback for package oidcprovider, which starts this file.
//
// The first line on stdin is the configuration as JSON; stdin's end means that the test is gone, and ends the server too. The first
// line on stdout that starts with {"issuer" tells where it listens. A second port, never given to the code under test, answers what
// a test wants to know and change: GET /requests, PUT /clients, POST /initial-access-tokens, POST /clock.
//
// Usage: node server.mjs FOLDER, where FOLDER/node_modules has oidc-provider.

import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

const folder = path.resolve(process.argv[2] ?? '.');
const entry = createRequire(path.join(folder, 'package.json')).resolve('oidc-provider');
const { default: Provider, errors } = await import(pathToFileURL(entry));

const lines = readline.createInterface({ input: process.stdin });
const config = JSON.parse((await lines[Symbol.asyncIterator]().next()).value);
lines.on('close', () => process.exit(0));
process.stdin.resume();

// How far a test has set the clock ahead, in milliseconds.
let ahead = 0;
const now = Date.now;
Date.now = () => now() + ahead;

// What the provider stores: one map for all models, gone with the process. Clients live here and not in the provider's static list,
// so that a test can change one while it runs: the provider keys its cache by their content.
const store = new Map();

class Adapter {
  constructor(model) {
    this.prefix = `${model}:`;
  }

  async find(id) {
    const found = store.get(this.prefix + id);
    return found && (!found.expires || found.expires > Date.now()) ? found.payload : undefined;
  }

  async upsert(id, payload, expiresIn) {
    store.set(this.prefix + id, { payload, expires: expiresIn && Date.now() + expiresIn * 1000 });
  }

  async destroy(id) {
    store.delete(this.prefix + id);
  }

  async consume(id) {
    store.get(this.prefix + id).payload.consumed = Math.floor(Date.now() / 1000);
  }

  // What users' grants need: sessions, device codes and the end of a whole grant.
  #with(member, value) {
    return [...store].find(([key, { payload }]) => key.startsWith(this.prefix) && payload[member] === value)?.[1].payload;
  }

  async findByUid(uid) {
    return this.#with('uid', uid);
  }

  async findByUserCode(userCode) {
    return this.#with('userCode', userCode);
  }

  async revokeByGrantId(grantId) {
    for (const [key, { payload }] of store) {
      if (key.startsWith(this.prefix) && payload.grantId === grantId) store.delete(key);
    }
  }
}

const clients = new Adapter('Client');
for (const client of config.clients) {
  await clients.upsert(client.client_id, client);
}

// The signing key of JWT access tokens. A key id derived from the key keeps two servers' keys apart in a cache.
const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const jwk = privateKey.export({ format: 'jwk' });
jwk.kid = createHash('sha256').update(jwk.x).digest('base64url').slice(0, 16);

const resources = new Map(config.resources.map((resource) => [resource.uri, resource]));

// Dynamic registration (RFC 7591, RFC 7592), if it is wanted. By itself the provider never changes a secret: only a policy, which
// comes with the initial access token and stays with the registration, can.
const registration = config.registration && {
  registration: {
    enabled: true,
    initialAccessToken: true,
    policies: {
      'new-secret': async (ctx, properties) => {
        if (ctx.method === 'PUT') properties.client_secret = randomBytes(32).toString('base64url');
      },
    },
  },
  registrationManagement: { enabled: true, rotateRegistrationAccessToken: config.registration.newTokenAtUpdate },
};

// Grants of users: authorization code with PKCE, devices, refresh tokens. The provider's own development pages ask for any login and
// for consent.
const users = config.users && {
  responseTypes: ['code'],
  pkce: { required: () => true },
  issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: () => config.users.rotateRefreshTokens,
};

// Certificates that clients present, on a port of their own, so that nobody else is asked for one (RFC 8705, section 5).
const certificates = {
  enabled: true,
  tlsClientAuth: true,
  selfSignedTlsClientAuth: true,
  certificateBoundAccessTokens: true,
  getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.()?.toString(),
  certificateAuthorized: (ctx) => ctx.socket.authorized,
  certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_subject_dn'
    && ctx.socket.getPeerX509Certificate().subject.split('\n').reverse().join(',') === expected,
};

function build(issuer, mtlsBase) {
  const provider = new Provider(issuer, {
    adapter: Adapter,
    jwks: { keys: [{ ...jwk, use: 'sig', alg: 'ES256' }] },
    cookies: { keys: [randomBytes(16).toString('hex')] },
    scopes: config.scopes,
    responseTypes: [],
    ...users,
    ...(mtlsBase
      ? {
        discovery: {
          mtls_endpoint_aliases: { token_endpoint: `${mtlsBase}/token`, introspection_endpoint: `${mtlsBase}/token/introspection` },
        },
      }
      : {}),
    clientAuthMethods: [
      'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'none',
      ...(mtlsBase ? ['tls_client_auth', 'self_signed_tls_client_auth'] : []),
    ],
    enabledJWA: {
      clientAuthSigningAlgValues: ['HS256', 'HS384', 'HS512', 'RS256', 'PS256', 'ES256', 'EdDSA', 'Ed25519'],
    },
    // The algorithm that the key above can do.
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    ...(config.clockTolerance ? { clockTolerance: config.clockTolerance } : {}),
    // Without the dispatcher that the provider sets, which connects to no loopback address.
    fetch: (url, options) => globalThis.fetch(url, { ...options, dispatcher: undefined }),
    ttl: {
      ClientCredentials: (ctx, token) => token.resourceServer?.accessTokenTTL ?? config.lifetime,
      AccessToken: (ctx, token) => token.resourceServer?.accessTokenTTL ?? config.lifetime,
      ...(config.users ? { DeviceCode: config.users.deviceLifetime } : {}),
    },
    features: {
      devInteractions: { enabled: Boolean(users) },
      deviceFlow: { enabled: Boolean(users) },
      mTLS: mtlsBase ? certificates : { enabled: false },
      dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => config.dpopNonce },
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      ...registration,
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        defaultResource: async (ctx, client, oneOf) => oneOf ?? (config.defaultResource || undefined),
        getResourceServerInfo: async (ctx, uri) => {
          const resource = resources.get(uri);
          if (!resource) throw new errors.InvalidTarget();
          return {
            audience: uri,
            scope: resource.scopes.join(' '),
            accessTokenTTL: resource.lifetime || config.lifetime,
            accessTokenFormat: resource.opaque ? 'opaque' : 'jwt',
            jwt: { sign: { alg: 'ES256' } },
          };
        },
      },
    },
  });
  // What the provider answers without a word on the wire: shown with a failed test.
  provider.on('server_error', (ctx, err) => console.error('server_error', err));
  provider.on('grant.error', (ctx, err) => console.error('grant.error', err.error, err.error_description, err.error_detail ?? ''));
  return provider;
}

function listen(server) {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => resolve(server.address().port));
  });
}

let requests = 0;
let serve; // set once the port, and so the issuer, is known
const handler = (request, response) => {
  if (request.method === 'POST' && request.url.split('?')[0] === '/token') requests += 1;
  serve(request, response);
};
const secure = config.certFile !== '';
const api = secure
  ? https.createServer({ cert: readFileSync(config.certFile), key: readFileSync(config.keyFile) }, handler)
  : http.createServer(handler);
const port = await listen(api);
const issuer = `${secure ? 'https' : 'http'}://127.0.0.1:${port}`;
let mtlsBase = '';
if (secure) {
  const asking = https.createServer({
    cert: readFileSync(config.certFile), key: readFileSync(config.keyFile), ca: readFileSync(config.clientCAFile), requestCert: true, rejectUnauthorized: false,
  }, handler);
  mtlsBase = `https://127.0.0.1:${await listen(asking)}`;
}
const provider = build(issuer, mtlsBase);
serve = provider.callback();

const control = http.createServer(async (request, response) => {
  try {
    if (request.method === 'GET' && request.url === '/requests') {
      response.end(JSON.stringify({ requests }));
      return;
    }
    if (request.method === 'PUT' && request.url === '/clients') {
      let body = '';
      for await (const chunk of request) body += chunk;
      const client = JSON.parse(body);
      const previous = await clients.find(client.client_id);
      await clients.upsert(client.client_id, client);
      try {
        await provider.Client.find(client.client_id); // refuses metadata that is not valid
      } catch (err) {
        await (previous ? clients.upsert(client.client_id, previous) : clients.destroy(client.client_id));
        throw err;
      }
      response.statusCode = 204;
      response.end();
      return;
    }
    if (request.method === 'POST' && request.url === '/initial-access-tokens') {
      const policies = config.registration.newSecretAtUpdate ? ['new-secret'] : undefined;
      response.end(JSON.stringify({ token: await new provider.InitialAccessToken({ policies }).save() }));
      return;
    }
    if (request.method === 'POST' && request.url === '/clock') {
      let body = '';
      for await (const chunk of request) body += chunk;
      ahead += JSON.parse(body).seconds * 1000;
      response.statusCode = 204;
      response.end();
      return;
    }
    response.statusCode = 404;
    response.end();
  } catch (err) {
    response.statusCode = 400;
    response.end(`${err.message}: ${err.error_description ?? ''}`);
  }
});
const controlPort = await listen(control);

// Metadata that is not valid is told now, not at the first token request, where it would look like a wrong secret.
for (const client of config.clients) {
  try {
    await provider.Client.find(client.client_id);
  } catch (err) {
    console.error(`client ${client.client_id}: ${err.message}: ${err.error_description ?? ''}`);
    process.exit(1);
  }
}

console.log(JSON.stringify({ issuer, mtls: mtlsBase, control: `http://127.0.0.1:${controlPort}` }));
