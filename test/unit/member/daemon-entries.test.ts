import { expect, it } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { namedEntry } from '../../../src/holder/entry.js'
import { Registry } from '../../../src/holder/registry.js'
import { memoryFile } from '../../../src/kernel/index.js'
import { DaemonEntries } from '../../../src/member/hosting/daemon-entries.js'
import type { Link, WireBody } from '../../../src/wire/link.js'

/** The link to a daemon that takes everything, and answers nothing. */
function heardLink() {
  const heard: string[] = []
  const post = ({ register }: WireBody) =>
    void heard.push(register?.drop ? `drop ${register.item?.name}` : `register ${register?.request}`)
  const link = {
    open: true,
    post,
    send: async (body: WireBody) => post(body),
    sendBundle: async () => {},
  }
  return { heard, link: link as typeof link & Link }
}

function entriesAt(first: Link) {
  const joined = { link: first, post: (body: WireBody) => joined.link.post(body) }
  const settings = { logger: SILENT, timeout: 60_000 }
  const entries = new DaemonEntries({ settings, registry: new Registry(), joined, throwIfLeft: () => {} })
  return { entries, joined }
}

const turn = () => new Promise(resolve => setImmediate(resolve))

it('a member drops names at the next daemon when it is back there, ahead of its registrations', async () => {
  const [before, next] = [heardLink(), heardLink()]
  const { entries, joined } = entriesAt(before.link)
  entries.drop('early')
  expect(before.heard).toEqual(['drop early'])
  // The daemon has ended.
  before.link.open = false
  entries.drop('between')
  joined.link = next.link
  entries.hold(next.link)
  // The descriptors with which it comes back are on their way.
  for (const name of ['late', 'again']) entries.drop(name)
  const fd = memoryFile('again', 'a memory file')
  void entries.store(namedEntry('again', fd)).catch(() => {})
  await turn()
  expect(next.heard).toEqual([])
  entries.repeat(next.link)
  await turn()
  expect(next.heard).toEqual(['drop between', 'drop late', 'register 1'])
  entries.fail(new Error('the test is over'))
  await turn()
})
