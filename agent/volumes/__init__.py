"""What a pod's volumes become on the node: emptyDir, hostPath, configMap, secret, downwardAPI, projected. Independent of runtime, images, network and services."""
