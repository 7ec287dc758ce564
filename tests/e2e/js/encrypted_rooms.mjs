// What people do with encryption, with matrix-js-sdk and its Rust crypto against two nodes.
//
//     node encrypted_rooms.mjs URL_OF_HERE URL_OF_THERE NAME_OF_HERE SECONDS
//
// Each line of output is one JSON object: {"done": step, "seconds": since the start} or {"please": "part" | "meet"}, which is answered by a line.

import { createClient, MsgType } from "matrix-js-sdk";
import { CryptoEvent, VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { createInterface } from "node:readline";
import assert from "node:assert/strict";

const [, , here, there, nameOfHere, patience] = process.argv;
const PASSWORD = "correct horse battery staple";
logger.setLevel("silent");
for (const level of ["debug", "info", "log", "warn", "error"]) console[level] = () => {};

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const done = (step) => say({ done: step, seconds: process.uptime() });
async function please(what) {
    say({ please: what });
    assert.equal((await answers.next()).value, "done");
}

/** Until `look` gives something true, within SECONDS; what it gave. */
async function eventually(what, look) {
    const end = Date.now() + Number(patience) * 1000;
    for (;;) {
        const found = await look();
        if (found) return found;
        if (Date.now() > end) throw new Error(`never: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
}

/** What `promise` gives, or an error after SECONDS. */
function within(what, promise) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`never: ${what}`)), Number(patience) * 1000);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

class Person {
    constructor(url, name) {
        Object.assign(this, { url, name, storageKeys: new Map() });
    }

    async register() {
        const bare = createClient({ baseUrl: this.url });
        const { user_id: userId } = await bare.registerRequest({
            username: this.name, password: PASSWORD, inhibit_login: true, auth: { type: "m.login.dummy" },
        });
        this.userId = userId;
    }

    /** A new device of this person, started, its first sync behind it. */
    async device(deviceId) {
        const bare = createClient({ baseUrl: this.url });
        const login = await bare.loginRequest({
            type: "m.login.password", identifier: { type: "m.id.user", user: this.name },
            password: PASSWORD, device_id: deviceId,
        });
        const client = createClient({
            baseUrl: this.url, userId: login.user_id, accessToken: login.access_token, deviceId: login.device_id,
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) => {
                    const id = Object.keys(keys).find((each) => this.storageKeys.has(each));
                    return id ? [id, this.storageKeys.get(id)] : null;
                },
                cacheSecretStorageKey: (id, info, key) => this.storageKeys.set(id, key),
            },
        });
        await client.initRustCrypto({ useIndexedDB: false });
        await client.startClient({ initialSyncLimit: 50, pollTimeout: 5000 });
        await eventually("the first sync", () => client.isInitialSyncComplete());
        return client;
    }

    /** Cross-signing keys, secret storage and a key backup, as a client makes them after the first login. */
    async setUpEncryption(client) {
        const crypto = client.getCrypto();
        await crypto.bootstrapCrossSigning({
            authUploadDeviceSigningKeys: (request) => request({
                type: "m.login.password", identifier: { type: "m.id.user", user: this.userId }, password: PASSWORD,
            }),
        });
        await crypto.bootstrapSecretStorage({
            createSecretStorageKey: () => crypto.createRecoveryKeyFromPassphrase(),
            setupNewSecretStorage: true,
            setupNewKeyBackup: true,
        });
        assert(await crypto.isCrossSigningReady(), "cross-signing is ready");
        assert(await crypto.isSecretStorageReady(), "secret storage is ready");
    }
}

const textsOf = (client, roomId) => (client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? [])
    .filter((event) => event.getType() === "m.room.message" && !event.isDecryptionFailure())
    .map((event) => event.getContent().body);
const hears = (client, roomId, text) =>
    eventually(`${client.getUserId()} ${client.getDeviceId()} reads "${text}"`, () => textsOf(client, roomId).includes(text));
const send = (client, roomId, body) => client.sendMessage(roomId, { msgtype: MsgType.Text, body });

/** Both sides of a verification by emoji: `asker` begins, `other` is asked; true if both saw the same seven. */
async function compareEmoji(asker, other, begin) {
    const asked = new Promise((resolve) => other.once(CryptoEvent.VerificationRequestReceived, resolve));
    const request = await begin();
    const received = await within("the request arrives", asked);
    await received.accept();
    await eventually("ready", () => request.phase === VerificationPhase.Ready);
    const emoji = [];
    const showAndConfirm = (verifier) => {
        const shown = new Promise((resolve) => verifier.on(VerifierEvent.ShowSas, resolve));
        const finished = verifier.verify();
        return { shown: shown.then((sas) => { emoji.push(sas.sas.emoji.map(([, name]) => name).join(" ")); return sas; }), finished };
    };
    const first = showAndConfirm(await request.startVerification("m.sas.v1"));
    const second = showAndConfirm(await eventually("the other side starts", () => received.verifier));
    const both = await within("both see the emoji", Promise.all([first.shown, second.shown]));
    assert.equal(emoji[0], emoji[1]);
    await Promise.all(both.map((sas) => sas.confirm()));
    await within("both sides are done", Promise.all([first.finished, second.finished]));
}

const alice = new Person(here, "alice");
const bob = new Person(there, "bob");
await alice.register();
await bob.register();
const phone = await alice.device("PHONE");
const tablet = await bob.device("TABLET");
await alice.setUpEncryption(phone);
await bob.setUpEncryption(tablet);
done("cross-signing, secret storage and key backup");

const { room_id: roomId } = await phone.createRoom({
    preset: "private_chat", invite: [bob.userId],
    initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
});
await eventually("the invite", () => tablet.getRoom(roomId)?.getMyMembership() === "invite");
await tablet.joinRoom(roomId, { viaServers: [nameOfHere] });
await eventually("bob joined", () => phone.getRoom(roomId)?.getMember(bob.userId)?.membership === "join");
await send(phone, roomId, "the bridge is out");
await hears(tablet, roomId, "the bridge is out");
await send(tablet, roomId, "we take the ferry");
await hears(phone, roomId, "we take the ferry");
done("an encrypted room");

await compareEmoji(phone, tablet, () => phone.getCrypto().requestVerificationDM(bob.userId, roomId));
await eventually("alice trusts bob", async () =>
    (await phone.getCrypto().getUserVerificationStatus(bob.userId)).isCrossSigningVerified());
await eventually("bob trusts alice", async () =>
    (await tablet.getCrypto().getUserVerificationStatus(alice.userId)).isCrossSigningVerified());
done("two people compare emoji");

// A client drops the request of a device whose keys it has not asked for yet.
const knows = async (client, deviceId) =>
    (await client.getCrypto().getUserDeviceInfo([alice.userId])).get(alice.userId)?.has(deviceId);
const laptop = await alice.device("LAPTOP");
await eventually("alice's devices know each other", async () => await knows(laptop, "PHONE") && await knows(phone, "LAPTOP"));
await compareEmoji(laptop, phone, () => laptop.getCrypto().requestOwnUserVerification());
await eventually("the laptop is cross-signed, as bob sees it", async () =>
    (await tablet.getCrypto().getDeviceVerificationStatus(alice.userId, "LAPTOP"))?.crossSigningVerified);
done("a person compares emoji on two devices");

await eventually("the keys are in the backup", async () =>
    (await phone.http.authedRequest("GET", "/room_keys/version")).count >= 2);
const restored = await alice.device("RESTORED");
assert(await restored.getCrypto().userHasCrossSigningKeys(alice.userId, true), "alice has keys");
await restored.getCrypto().bootstrapCrossSigning({});
await restored.getCrypto().loadSessionBackupPrivateKeyFromSecretStorage();
await restored.getCrypto().checkKeyBackupAndEnable();
const { imported } = await restored.getCrypto().restoreKeyBackup();
assert(imported >= 2, `${imported} keys came out of the backup`);
await restored.scrollback(restored.getRoom(roomId), 50);
await hears(restored, roomId, "the bridge is out");
await hears(restored, roomId, "we take the ferry");
done("history from the key backup");

const carol = new Person(here, "carol");
await carol.register();
const watch = await carol.device("WATCH");
await carol.setUpEncryption(watch);
const known = async (userId) => (await tablet.getCrypto().getUserDeviceInfo([userId])).get(userId);
await tablet.invite(roomId, carol.userId);
await eventually("the second invite", () => watch.getRoom(roomId)?.getMyMembership() === "invite");
await watch.joinRoom(roomId);
await watch.getCrypto().startDehydration();
await watch.logout(true);
await eventually("bob knows of the dehydrated device alone", async () => {
    const devices = [...(await known(carol.userId))?.values() ?? []];
    return devices.length === 1 && devices[0].dehydrated;
});
await send(tablet, roomId, "the ferry is back");
const next = await carol.device("NEXT");
await eventually("it cannot be read yet", () =>
    next.getRoom(roomId)?.getLiveTimeline().getEvents().some((event) => event.isDecryptionFailure()));
assert(!textsOf(next, roomId).includes("the ferry is back"));
assert(await next.getCrypto().userHasCrossSigningKeys(carol.userId, true), "carol has keys");
await next.getCrypto().bootstrapCrossSigning({});
await next.getCrypto().startDehydration();
await hears(next, roomId, "the ferry is back");
next.stopClient();
done("written while she was logged in nowhere");

await please("part");
await send(phone, roomId, "is anybody there?");
await send(tablet, roomId, "alone on this side");
await please("meet");
await hears(tablet, roomId, "is anybody there?");
await hears(phone, roomId, "alone on this side");
await hears(laptop, roomId, "alone on this side");
done("both were away");

const knownToBob = () => known(alice.userId);
assert((await knownToBob()).has("LAPTOP"));
laptop.stopClient();
await phone.deleteDevice("LAPTOP").then(
    () => assert.fail("a device went without a password"),
    (refusal) => {
        assert.equal(refusal.httpStatus, 401);
        return phone.deleteDevice("LAPTOP", {
            type: "m.login.password", identifier: { type: "m.id.user", user: alice.userId },
            password: PASSWORD, session: refusal.data.session,
        });
    },
);
await eventually("bob no longer knows the laptop", async () => !(await knownToBob()).has("LAPTOP"));
await send(tablet, roomId, "not for the laptop");
await hears(phone, roomId, "not for the laptop");
done("a device is removed");

for (const client of [phone, tablet, restored]) client.stopClient();
process.exit(0);
