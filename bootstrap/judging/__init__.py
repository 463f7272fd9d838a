"""Pure judgements over what the nodes said: do they agree, is it what was asked for, what to do next, and why not."""
