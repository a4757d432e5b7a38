import { expect, it } from 'vitest'
import { codec, defineSection, join } from '../../../src/index.js'

it('a section that is read after its member was closed says that it is closed', async () => {
  const member = await join({ service: 'shop', control: false })
  const section = member.section('kv', defineSection<number>({ version: 1, codec: codec.json() }))
  await member.ready()
  await section.put('a', 1)
  await member.close({ timeout: 0 })
  for (const read of [() => section.get('a'), () => [...section.entries()]])
    expect(read).toThrow(expect.objectContaining({ code: 'ERR_FDB_STATE_CLOSED' }))
})
