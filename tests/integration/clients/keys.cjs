// Keys through a client library: LIBRARY HOST PORT PREFIX KEYS. Prints how many were read as they were written.
// KEYS_PASSWORD and KEYS_USER are the login, KEYS_CA the certificate of the authority where connections are encrypted.
"use strict";

const { readFileSync } = require("node:fs");
const { KEYS_PASSWORD, KEYS_USER, KEYS_CA } = process.env;
const redisOptions = {
  ...(KEYS_PASSWORD && { password: KEYS_PASSWORD }),
  ...(KEYS_USER && { username: KEYS_USER }),
  ...(KEYS_CA && { tls: { ca: readFileSync(KEYS_CA) } }),
};

const [library, host, port, prefix, keys] = process.argv.slice(2);
const { Cluster } = require(library);

async function main() {
  const client = new Cluster([{ host, port: Number(port) }], { redisOptions });
  // Without a listener every failed connection is printed; the commands fail by themselves.
  let last = null;
  client.on("error", (error) => (last = error));
  client.on("+node", (node) => node.on("error", (error) => (last = error)));
  let right = 0;
  try {
    for (let number = 0; number < Number(keys); number++) {
      const said = await client.set(`${prefix}:${number}`, `value of ${number}`);
      if (said !== "OK") throw new Error(said);
    }
    for (let number = 0; number < Number(keys); number++) {
      if ((await client.get(`${prefix}:${number}`)) === `value of ${number}`) right++;
    }
  } catch (error) {
    throw last ? new Error(`${error.message}; last: ${last.message}`) : error;
  } finally {
    client.disconnect();
  }
  console.log(right);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
