import { expect, it, onTestFinished } from 'vitest'
import { AppendNotice } from '../../../src/member/hosting/operator-requests.js'
import { until } from '../../processes/until.js'

it('tells of what was appended: at once, what comes soon after as one, and without a warning of Node', async () => {
  const warnings: string[] = []
  const warned = ({ message }: Error) => warnings.push(message)
  process.on('warning', warned)
  const appended = new Set<() => void>()
  let told = 0
  const notice = new AppendNotice(appended, () => told++)
  onTestFinished(() => {
    notice.close()
    process.off('warning', warned)
  })
  notice.want(true)
  await until('what is there is told', () => told === 1)
  for (let i = 0; i < 3; i++) for (const note of appended) note()
  await until('it is told', () => told === 2)
  // Later than that: it is due at once.
  await new Promise(resolve => setTimeout(resolve, 20))
  for (const note of appended) note()
  await until('it is told', () => told === 3)
  expect(warnings).toEqual([])
})
