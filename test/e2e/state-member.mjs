// @ts-check
// A small server with a state of several sections: node state-member.mjs CONTROL HOSTING
import { codec, defineSection, join } from 'fd-broker'

const [control = '', hosting = 'embedded'] = process.argv.slice(2)
const member = await join({
  service: 'stall',
  control,
  upgrade: { probation: 0 },
  hosting: hosting === 'daemon' ? 'daemon' : 'embedded',
})
const validate = (/** @type {any} */ price) => {
  if (typeof price.cents !== 'number') throw new TypeError('no cents')
}
const prices = member.section('prices', defineSection({ version: 2, codec: codec.json(), validate }))
const carts = member.section('carts', defineSection({ version: 1, codec: codec.msgpack() }))
const keys = member.section('keys', defineSection({ version: 1, codec: codec.bytes(), secret: true }))
member.section('notes') // it has no schema
await member.ready()
if (prices.size === 0) {
  await prices.bulk(
    Array.from({ length: 3000 }, (_, i) => ({ key: `item ${i}`, value: { cents: i, name: 'Apfel ä' } })),
  )
  await carts.put('anna', { items: [1, 2], paid: false })
  const rich = { number: 2n ** 60n, sum: Number.NaN, receipt: new Uint8Array([1, 255]) }
  await carts.put('anna', { items: [1, 2, 3], paid: true, ...rich })
  await keys.put('ticket', Buffer.from('do not tell'))
}
console.log('serving')
