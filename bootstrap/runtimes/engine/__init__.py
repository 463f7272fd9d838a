"""The engine runtime: one container per node; the only room that talks to Docker.

`runtime` is the runtime itself; `images` gets images and asks them for their server, `facts` says where the engine
runs and what is taken there, `failures` turns its refusals into errors of this package, `labels` and `archives` are
the forms in which it keeps records and takes files, `netns` dials from inside its networks.
"""
