// oidc-provider as a program: one JSON line on standard input says what to trust, one on standard output where it listens.
//
// The strictest server that can be had: pushed authorization requests alone, DPoP with a nonce, rotation whose reuse
// revokes the grant, every assertion once. Whoever opens its pages is ana, and agrees at once.

import { createInterface } from 'node:readline';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const given = JSON.parse((await createInterface({ input: process.stdin })[Symbol.asyncIterator]().next()).value);
const server = createServer();
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const issuer = `http://localhost:${server.address().port}`;

const client = (id, more) => ({
  client_id: id,
  redirect_uris: [`${given.callback}/${id}`],
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  ...more,
});

const provider = new Provider(issuer, {
  clients: [
    client('signed', {
      token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: 'ES256',
      jwks: { keys: [given.jwk] },
      require_pushed_authorization_requests: true,
      dpop_bound_access_tokens: true,
    }),
    client('hashed', { token_endpoint_auth_method: 'client_secret_jwt', client_secret: given.secret }),
    client('basic', { token_endpoint_auth_method: 'client_secret_basic', client_secret: given.secret }),
    client('tv', {
      token_endpoint_auth_method: 'none',
      grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
      redirect_uris: [],
      response_types: [],
    }),
  ],
  features: {
    devInteractions: { enabled: false },
    deviceFlow: { enabled: true },
    dPoP: { enabled: true, nonceSecret: Buffer.alloc(32, 7), requireNonce: () => true },
    introspection: { enabled: true },
    pushedAuthorizationRequests: { enabled: true },
    revocation: { enabled: true },
    userinfo: { enabled: true },
  },
  findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
  issueRefreshToken: () => true,
  rotateRefreshToken: true,
  scopes: ['openid', 'offline_access'],
  ttl: { AccessToken: given.life, RefreshToken: 86400, Grant: 86400, Interaction: 600, Session: 600, IdToken: 600, DeviceCode: 600, AuthorizationCode: 60 },
  interactions: { url: (_, interaction) => `/agree/${interaction.uid}` },
  pkce: { required: () => true },
});
provider.on('server_error', (_, error) => console.error(error));

const tokens = [];
provider.on('access_token.saved', (token) => tokens.push(token));
provider.on('access_token.issued', (token) => tokens.push(token));

async function agree(req, res) {
  const { prompt, params, session } = await provider.interactionDetails(req, res);
  if (prompt.name === 'login') {
    await provider.interactionFinished(req, res, { login: { accountId: 'ana' } });
    return;
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope('openid offline_access');
  await provider.interactionFinished(req, res, { consent: { grantId: await grant.save() } });
}

async function approve(code) {
  const found = await provider.DeviceCode.findByUserCode(code.replace(/[^A-Z0-9]/g, ''), { ignoreExpiration: true });
  const grant = new provider.Grant({ accountId: 'ana', clientId: found.clientId });
  grant.addOIDCScope('openid offline_access');
  found.accountId = 'ana';
  found.grantId = await grant.save();
  found.scope = 'openid offline_access';
  await found.save();
}

const callback = provider.callback();
server.on('request', async (req, res) => {
  const url = new URL(req.url, issuer);
  try {
    if (url.pathname.startsWith('/agree/')) {
      await agree(req, res);
    } else if (url.pathname === '/control/approve') {
      await approve(url.searchParams.get('code'));
      res.end('{}');
    } else if (url.pathname === '/control/expire') {
      await Promise.all(tokens.splice(0).map((token) => token.destroy()));
      res.end('{}');
    } else {
      callback(req, res);
    }
  } catch (error) {
    console.error(error);
    res.statusCode = 500;
    res.end();
  }
});
console.log(JSON.stringify({ issuer }));
