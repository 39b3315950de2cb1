// kafkajs against a running Tarn.
//
// usage: node kafkajs_check.cjs BOOTSTRAP      (NODE_PATH names the folder that holds kafkajs)
//
// Prints one line per check. Exit code: 0 all passed, 1 some failed.
const { Kafka, CompressionTypes, logLevel } = require("kafkajs");

const kafka = new Kafka({ clientId: "kafkajs-check", brokers: [process.argv[2]], logLevel: logLevel.NOTHING });
const fresh = (name) => `${name}-${process.pid}-${Math.floor(Math.random() * 1e9)}`;

function assert(holds, what) {
  if (!holds) throw new Error(what);
}

async function create(topic, numPartitions = 1) {
  const admin = kafka.admin();
  await admin.connect();
  assert(await admin.createTopics({ topics: [{ topic, numPartitions }] }), "the topic was there already");
  await admin.disconnect();
}

// Reads `count` records of a topic as a member of a group.
async function consume(topic, count, groupId) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10000 });
  const records = [];
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`${records.length} of ${count} records`)), 60000).unref();
    consumer
      .run({
        eachMessage: async ({ partition, message }) => {
          records.push({ partition, ...message });
          if (records.length === count) resolve();
        },
      })
      .catch(reject);
  });
  await consumer.disconnect();
  return records;
}

const checks = {
  async keys_headers_and_gzip() {
    const topic = fresh("js");
    await create(topic);
    const producer = kafka.producer();
    await producer.connect();
    for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
      const messages = [...Array(100).keys()].map((n) => ({ key: `k${n}`, value: `v${n}`, headers: { n: `${n}` } }));
      await producer.send({ topic, messages, compression });
    }
    await producer.disconnect();
    const got = await consume(topic, 200, fresh("g"));
    got.forEach((m, n) => {
      const at = String(n % 100);
      assert(m.key.toString() === `k${at}` && m.value.toString() === `v${at}` && m.headers.n.toString() === at, `record ${n}`);
    });
  },

  async idempotent_producer() {
    const topic = fresh("js");
    await create(topic, 3);
    const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
    await producer.connect();
    for (let batch = 0; batch < 20; batch++) {
      await producer.send({ topic, acks: -1, messages: [...Array(50).keys()].map((n) => ({ key: `${n}`, value: `${batch}` })) });
    }
    await producer.disconnect();
    assert((await consume(topic, 1000, fresh("g"))).length === 1000, "other records");
  },

  async transactions_count_whole_or_not_at_all() {
    const topic = fresh("js");
    const group = fresh("g");
    await create(topic, 2);
    const producer = kafka.producer({ transactionalId: fresh("id"), idempotent: true, maxInFlightRequests: 1 });
    await producer.connect();
    for (let n = 0; n < 9; n++) {
      const transaction = await producer.transaction();
      for (const partition of [0, 1]) {
        await transaction.send({ topic, messages: [{ value: `${n}`, partition }] });
      }
      await transaction.sendOffsets({
        consumerGroupId: group, topics: [{ topic, partitions: [{ partition: 0, offset: `${n + 1}` }] }],
      });
      await (n % 3 === 2 ? transaction.abort() : transaction.commit());
    }
    await producer.disconnect();
    const values = (await consume(topic, 12, fresh("g"))).map((m) => m.value.toString()).sort().join("");
    assert(values === "001133446677", values);
    const admin = kafka.admin();
    await admin.connect();
    const offsets = await admin.fetchOffsets({ groupId: group, topics: [topic] });
    assert(offsets[0].partitions.find((p) => p.partition === 0).offset === "8", JSON.stringify(offsets));
    await admin.disconnect();
  },

  async a_group_goes_on_where_it_committed() {
    const topic = fresh("js");
    const group = fresh("g");
    await create(topic);
    const producer = kafka.producer();
    await producer.connect();
    await producer.send({ topic, messages: [{ value: "1" }, { value: "2" }] });
    const first = await consume(topic, 2, group);
    await producer.send({ topic, messages: [{ value: "3" }] });
    const second = await consume(topic, 1, group);
    await producer.disconnect();
    const values = [...first, ...second].map((m) => m.value.toString()).join();
    assert(values === "1,2,3", values);
    const admin = kafka.admin();
    await admin.connect();
    const offsets = await admin.fetchOffsets({ groupId: group, topics: [topic] });
    assert(offsets[0].partitions[0].offset === "3", JSON.stringify(offsets));
    const { groups } = await admin.listGroups();
    assert(groups.some((g) => g.groupId === group), "the group is not listed");
    await admin.deleteGroups([group]);
    await admin.disconnect();
  },

  async administration() {
    const topic = fresh("js");
    await create(topic);
    const admin = kafka.admin();
    await admin.connect();
    await admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] });
    const metadata = await admin.fetchTopicMetadata({ topics: [topic] });
    assert(metadata.topics[0].partitions.length === 4, "partitions");
    const offsets = await admin.fetchTopicOffsets(topic);
    assert(offsets.length === 4 && offsets.every((o) => o.high === "0"), JSON.stringify(offsets));
    const configs = await admin.describeConfigs({ resources: [{ type: 2, name: topic }], includeSynonyms: false });
    assert(configs.resources[0].configEntries.some((e) => e.configName === "retention.ms"), "configs");
    await admin.deleteTopics({ topics: [topic] });
    assert(!(await admin.listTopics()).includes(topic), "it is still there");
    await admin.disconnect();
  },
};

(async () => {
  console.log(`kafkajs ${require("kafkajs/package.json").version}`);
  let failed = 0;
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      console.log(`passed ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}: ${error.stack}`);
    }
  }
  process.exit(failed ? 1 : 0);
})();
